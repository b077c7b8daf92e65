"""The text of ``--gender_codes``: which name or number means which class.

gender_codes.parse("111:male,112:female")          # {"111": 0, "112": 1}
gender_codes.class_names("111:male,112:female")    # ("male", "female")
"""

from __future__ import annotations

from afad_tfdata.common import errors, options

# What pandas and R read as a cell without a value, in lower case.
_NO_VALUE = frozenset(
    ("na", "nan", "-nan", "n/a", "<na>", "null", "none")
    + ("#n/a", "#n/a n/a", "#na", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan")
)


def parse(text: str) -> dict[str, int]:
    """Parses ``--gender_codes``: ``111:male,112:female`` is ``{"111": 0, "112": 1}``.

    Labels are numbered in the order of the text; several codes may share a name.

    Raises:
      UsageError: The text is not of that form, does not name two classes, or a name
        would not be read back as a name.
    """
    codes: dict[str, int] = {}
    names: list[str] = []
    for part in text.split(","):
        code, colon, name = (piece.strip() for piece in part.partition(":"))
        if not (code and colon and name) or code in codes:
            raise _form_error(text)
        if name not in names:
            names.append(name)
        codes[code] = names.index(name)
    if len(names) != 2:
        raise _form_error(text)
    for name in names:
        _check_class_name(name)
    return codes


def _check_class_name(name: str) -> None:
    """Refuses a class name of ``--gender_codes`` that tables could not give back.

    Raises:
      UsageError: Programs read it as a cell without a value, or it is no Unicode text.
    """
    if name.lower() in _NO_VALUE:
        raise errors.UsageError(
            f"--gender_codes names a class {name!r}, which pandas and R read in a table"
            " of the labels as no value: give the class another name"
        )
    options.check_utf8(name, "--gender_codes")


def class_names(text: str) -> tuple[str, str]:
    """The two class names in ``--gender_codes``, in label order."""
    parse(text)
    names = list(dict.fromkeys(p.partition(":")[2].strip() for p in text.split(",")))
    return names[0], names[1]


def _form_error(text: str) -> errors.UsageError:
    """The error of a wrong ``--gender_codes``."""
    return errors.UsageError(
        "--gender_codes takes CODE:NAME pairs of two classes, such as"
        f" 111:male,112:female; got {text!r}"
    )
