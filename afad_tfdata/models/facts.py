"""Facts: what a model's input and outputs mean, stored with it in memory and in files.

::

    facts.of(model).class_names     # ("male", "female"); () if they are not known
    facts.attach(model, facts.Facts(class_names=("male", "female")))
    facts.read_file("best.keras")   # what `model_files.save` stored, without loading it

They are stored as JSON: in a ``.keras`` file as the comment of its ZIP archive, in an
``.h5`` file as an attribute.  Keras ignores both, and therefore loads such files
without this package.  Checkpoints and SavedModels contain the same JSON values.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

from afad_tfdata.common import errors, files, options
from afad_tfdata.common.lazy_imports import keras
from afad_tfdata.images import codec, tensor_preprocessing

# What a model's input receives: (x - mean) / 127.5, x in [0, 255], or x / 255.
INPUT_RANGES = ("normalized", "pixels", "unit")

# Files contain this name: never change it.
_FORMAT = "afad_tfdata model facts"
_FORMAT_VERSION = 1
_HDF5_ATTRIBUTE = "afad_tfdata"
_FILE_NAME = "afad_tfdata.json"
# TensorFlow reserves this folder of a SavedModel for files of other programs.
_EXTRA_ASSETS = "assets.extra"
_ATTRIBUTE = "afad_tfdata_facts"
_MEANINGS = {
    "age": "age in years",
    "gender": "probability of {}",
    "age_spread": "standard deviation of the age in years",
}


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known about a model in addition to its weights.

    An empty value means that the fact is not known.

    Attributes:
      network: The `networks.ModelConfig` of a network of this package, as plain values.
      class_names: Names of the gender labels 0 and 1.  The gender output is the
        probability of the second.
      mean: Channel means R, G, B in [0, 255] that are subtracted from images.
      age_range: Youngest and oldest age in the training data, in years.
      input_range: One of `INPUT_RANGES`.
      face_crop: How faces were cut out of photos, as in `face_crop.FaceCrop.to_json`;
        empty if the images were faces already.
      decode: How the JPEGs of the training data were decoded, one of `codec.DECODES`.
      preset: For a backbone of keras-hub: `hub_backbones.preset_facts`, and ``scale``,
        ``offset`` and ``reverse`` of `backbones.Conversion`, by which the backbone sees
        ``root_input``.
    """

    network: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    age_range: tuple[int, int] | None = None
    input_range: str = ""
    face_crop: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    decode: str = ""
    preset: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return self != Facts()

    def or_else(self, others: Facts) -> Facts:
        """These facts; what is not known in them is taken from `others`."""
        fields = (field.name for field in dataclasses.fields(self))
        return Facts(**{n: getattr(self, n) or getattr(others, n) for n in fields})

    def to_dict(self) -> dict[str, Any]:
        """The facts as JSON values, from which `from_dict` makes the same facts."""
        return {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "class_names": list(self.class_names),
            "mean": dict(zip("RGB", self.mean, strict=True)) if self.mean else None,
            "age_range": list(self.age_range) if self.age_range else None,
            "input_range": self.input_range,
            "decode": self.decode,
            "divisor": tensor_preprocessing.DIVISOR,
            "outputs": {
                f"{label}_output": meaning_of_output(label, self.class_names)
                for label in _MEANINGS
                if label in self.network.get("task", "")
            },
            "network": dict(self.network),
            # Left out if empty, so that the files of other models stay as they were.
            **({"face_crop": dict(self.face_crop)} if self.face_crop else {}),
            **({"preset": dict(self.preset)} if self.preset else {}),
        }


def from_dict(value: Any, *, where: str) -> Facts:
    """The facts in JSON values from `Facts.to_dict`, some of which may be absent.

    Args:
      value: JSON values; None or an empty object for nothing.
      where: The file, for the message.

    Raises:
      DataError: The value is something else.
    """
    if not value:
        return Facts()
    try:
        mean, ages = value.get("mean"), value.get("age_range")
        names = tuple(value.get("class_names") or ())
        network = dict(value.get("network") or {})
        if len(names) not in (0, 2) or not all(isinstance(n, str) for n in names):
            raise ValueError(f"its class names are {list(names)}")
        input_range = value.get("input_range") or ""
        if input_range not in ("", *INPUT_RANGES):
            raise ValueError(f"its input range is {input_range!r}")
        decode = value.get("decode") or ""
        if decode not in ("", *codec.DECODES):
            raise ValueError(f"its JPEGs were decoded {decode!r}")
        return Facts(
            network=network,
            class_names=names,
            mean=tuple(float(mean[channel]) for channel in "RGB") if mean else None,
            age_range=(int(ages[0]), int(ages[1])) if ages else None,
            input_range=input_range,
            face_crop=dict(value.get("face_crop") or {}),
            decode=decode,
            preset=dict(value.get("preset") or {}),
        )
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise errors.DataError(
            f"what {where} says about its model is damaged"
            f" ({errors.one_line(error)}): copy the file again"
        ) from error


def meaning_of_output(label: str, class_names: Sequence[str]) -> str:
    """The fact what an output means: ``age in years`` or ``probability of female``."""
    second = class_names[1] if class_names else "class 1"
    return _MEANINGS[label].format(second)


def of(model: Any) -> Facts:
    """The facts of a model in memory; empty for one that Keras itself loaded."""
    # Models that `attach` was not called for, such as those of tf_keras, have none.
    found = getattr(model, _ATTRIBUTE, None)
    if isinstance(found, Facts):
        return found
    # Version 0.1.0 stored the ModelConfig in this layer.  Subclassed models may have no
    # layers.
    for layer in getattr(model, "layers", ()):
        if type(layer).__name__ == "InputConversion":
            network = dict(getattr(layer, "info", {}))
            mean = network.get("mean")
            return Facts(
                network=network,
                mean=tuple(mean) if mean else None,
                input_range="normalized",
            )
    return Facts()


def attach(model: keras.Model, facts: Facts) -> None:
    """Sets the facts of a model in memory; its config and weights do not change."""
    setattr(model, _ATTRIBUTE, facts)


def write_file(path: str, facts: Facts) -> None:
    """Adds facts to a model file that Keras has written.

    Args:
      path: ``.keras`` or ``.h5``.
      facts: What to store.
    """
    text = json.dumps(facts.to_dict())
    if zipfile.is_zipfile(path):
        # A comment and not a member: if an archive has more members than Keras' own
        # three, Keras unpacks all of it into a temporary directory to load the model.
        with zipfile.ZipFile(path, "a") as archive:
            archive.comment = text.encode()
        return
    import h5py

    with h5py.File(path, "a") as file:
        file.attrs[_HDF5_ATTRIBUTE] = text


def read_file(path: str) -> Facts:
    """The facts in a model file; empty if it has none.

    Args:
      path: ``.keras`` or ``.h5``, which exists.

    Raises:
      DataError: They are damaged.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            text: Any = archive.comment
    else:
        import h5py

        with h5py.File(path, "r") as file:
            text = file.attrs.get(_HDF5_ATTRIBUTE, "")
    if not text:
        return Facts()
    try:
        value = json.loads(text)
    except ValueError:
        return Facts()  # Another program wrote this comment.
    if not isinstance(value, dict) or value.get("format") != _FORMAT:
        return Facts()
    return from_dict(value, where=path)


def write_saved_model(path: str, facts: Facts) -> None:
    """Adds facts to a SavedModel.

    Args:
      path: Its directory.
      facts: What to store.
    """
    directory = os.path.join(path, _EXTRA_ASSETS)
    os.makedirs(directory, exist_ok=True)
    files.write_json(os.path.join(directory, _FILE_NAME), facts.to_dict())


def read_saved_model(path: str) -> Facts:
    """The facts in a SavedModel; empty if it has none.

    Args:
      path: Its directory.

    Raises:
      DataError: They are damaged.
    """
    name = os.path.join(path, _EXTRA_ASSETS, _FILE_NAME)
    if not os.path.exists(name):
        return Facts()
    value = files.read_json(
        name, what="what the SavedModel says of itself", advice="copy it again"
    )
    return from_dict(value, where=name)


def is_swapped(
    names: Sequence[str],
    others: Sequence[str],
    *,
    what: str,
    other: str,
    flag: str = "--class_names",
) -> bool:
    """Whether a data set has a model's classes in the reverse order.

    Args:
      names: Class names of a model.
      others: Class names of a data set.
      what: The model, for the message.
      other: The data set, for the message.
      flag: The flag that names the model's classes.

    Returns:
      False for the same order, True for the reverse one.  Upper and lower case do not
      matter.

    Raises:
      UsageError: The two names are not the same in both.
    """
    first, second = _comparable_names(names), _comparable_names(others)
    if first == second:
        return False
    if first == second[::-1]:
        return True
    raise errors.UsageError(
        f"{what} tells {' from '.join(names)}, and {other} has the classes"
        f" {' and '.join(others)}: say which is which with"
        f" {flag}={','.join(others)} or {flag}={','.join(others[::-1])}, in the order"
        " of the model"
    )


def chosen_class_names(
    known: Sequence[str],
    given: Sequence[str],
    *,
    what: str,
    flag: str = "--class_names",
) -> tuple[str, ...]:
    """The class names of a model with a gender output, from its facts or the flag.

    Args:
      known: From its file; empty if it has none.
      given: From the flag; empty if it is not used.
      what: The model, for the message.
      flag: The flag.

    Returns:
      The given names, which may be other words for the known ones.  If none are given,
      the known ones.

    Raises:
      UsageError: There are no names, or the flag gives the known ones in the reverse
        order.
    """
    if known and given and _comparable_names(known) == _comparable_names(given)[::-1]:
        raise errors.UsageError(
            f"{flag}={','.join(given)} contradicts {what}, which says"
            f" {','.join(known)}: leave the flag out"
        )
    if known and (not given or _comparable_names(known) == _comparable_names(given)):
        return tuple(known)
    if given:
        return tuple(given)
    raise errors.UsageError(
        f"nothing says what the gender output of {what} means: add"
        f" {flag}=male,female if it is the probability of female, or"
        f" {flag}=female,male if it is that of male"
    )


def check_class_names(names: Sequence[str], flag: str) -> None:
    """Raises `UsageError` unless a flag names two classes of a model, or none."""
    if names and (len(names) != 2 or len({*_comparable_names(names)} - {""}) != 2):
        raise errors.UsageError(
            f"{flag} takes the names of classes 0 and 1, such as male,female; got"
            f" {','.join(names)!r}"
        )
    for name in names:
        options.check_utf8(name, flag)


def _comparable_names(names: Sequence[str]) -> list[str]:
    """Class names in facts without spaces around them and without case."""
    return [name.strip().casefold() for name in names]


def network_of(model: keras.Model) -> dict[str, Any]:
    """The facts about a model's network, as plain values of `networks.ModelConfig`.

    They are ``{}`` for a model of another program.  Instead of ``auto`` they have the
    value that was chosen, and ``weights`` is ``none`` if none were loaded.
    """
    return dict(of(model).network)
