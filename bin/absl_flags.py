"""The flags that every absl program has, with our names, defaults and help texts.

They are defined anew for each command, not taken from ``absl.app`` and
``absl.logging``: those define them for the whole process, where a library that defines
a flag of the same name as one of ours would end the program at its import.
"""

from __future__ import annotations

import dataclasses
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from afad_tfdata.common import errors, options

# Each of them shows something and ends the command.
HELP = ("help", "helpshort", "helpfull", "helpxml", "version")
# absl's parser handles these two itself, so they are shown but not defined.
_BY_PARSER = (
    options.OptionSpec(
        "flagfile", str, "", "Read flags from a file that has one flag per line.", None
    ),
    options.OptionSpec(
        "undefok",
        list,
        (),
        "Ignore flags with these names if the command does not have them.",
        None,
    ),
)
JSON = options.OptionSpec(
    "json", bool, False, "Print the result as JSON, and only that.", None
)

# Only of commands whose results afad-report shows.
REPORT = options.OptionSpec(
    "report",
    bool,
    False,
    "At the end, also write report.html, a page that shows the result.",
    None,
)


@dataclasses.dataclass(frozen=True)
class CommonFlags:
    """Values of the flags that all commands have."""

    json: bool = False
    report: bool = False
    verbosity: int = options.option(
        0,
        "Show log lines of this level and above: 1 is for debugging, 0 for progress, -1"
        " for warnings and -2 for errors. The short form is -v.",
    )
    logtostderr: bool = options.option(
        False, "Write log lines to standard error only, even if --log_dir is given."
    )
    alsologtostderr: bool = options.option(
        False, "Write log lines to standard error and to the file in --log_dir."
    )
    log_dir: str = options.option(
        "",
        "Directory for a new log file, which then gets the log lines instead of"
        " standard error.",
    )
    pdb_post_mortem: bool = options.option(
        False,
        "Start the debugger where an error occurs, if the command runs on a terminal."
        " The short form is --pdb.",
        aliases=("pdb",),
    )
    only_check_args: bool = options.option(
        False, "Check the flags, do nothing else, and end with status 0."
    )
    help: bool = options.option(False, "Show all flags and end.")
    helpshort: bool = options.option(False, "Show the command's own flags and end.")
    helpfull: bool = options.option(False, "Show all flags and end, as --help does.")
    helpxml: bool = options.option(False, "Show all flags as XML and end.")
    version: bool = options.option(False, "Show the version and end.")

    def __post_init__(self) -> None:
        options.check_choices(self)


def common_flags() -> list[options.OptionSpec]:
    """The common flags for a help text, in their order, without ``--json``."""
    return [*options.specs(CommonFlags), *_BY_PARSER]


def parse_flags(
    config_class: type, argv: Sequence[str], *, reports: bool = False
) -> tuple[dict[str, Any], CommonFlags, list[str]]:
    """Parses a command line into a config's fields and the common flags.

    Args:
      config_class: Its options become flags, next to the common ones.
      argv: The program's name, flags and arguments.
      reports: Whether the command has the flag ``--report``.

    Returns:
      The config's fields by flat name, the common flags, and the other arguments.

    Raises:
      UsageError: An unknown flag, a value that a flag does not take, or a flag file
        that cannot be read.
    """
    values = define_flags(config_class, reports=reports)
    try:
        rest = values(list(argv))[1:]
    except flags.CantOpenFlagFileError as error:
        reason = errors.one_line(error).partition("flagfile: ")[2]
        raise errors.UsageError(f"cannot read --flagfile: {reason}") from error
    except UnicodeDecodeError as error:
        raise errors.UsageError(
            "--flagfile must be a text in UTF-8; this file has another encoding, such"
            " as UTF-16: save it as UTF-8"
        ) from error
    except (flags.Error, ValueError) as error:  # ValueError comes for --noFLAG=VALUE.
        text = errors.one_line(error)
        if hint := _flag_meant(error, values):
            text = f"{text.partition('. Did you mean')[0]}; use --{hint}"
        raise errors.UsageError(f"{text} (--help lists the flags)") from error
    from_file = any(text.lstrip("-").startswith("flagfile") for text in argv)
    marked = [text for text in rest if text.startswith("\ufeff")]
    if from_file and marked:
        # absl takes such a line of a flag file for an argument, not for a flag.
        raise errors.UsageError(
            f"--flagfile begins with a byte order mark, before {marked[0][1:]!r}: save"
            " it as UTF-8 without one"
        )
    given = {s.name: values[s.name].value for s in options.specs(config_class)}
    # The fields of a frozen config are tuples, so that it has a hash.
    fields = {n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}
    names = [field.name for field in dataclasses.fields(CommonFlags)]
    common: dict[str, Any] = {n: values[n].value for n in names if n in values}
    return fields, CommonFlags(**common), rest


# For the name of a flag in other programs, its names here; the first one that the
# command has is meant.
_GUESSES = {
    "lr": ("learning_rate",),
    "rate": ("learning_rate",),
    "batch": ("global_batch_size", "batch_size"),
    "batch_size": ("global_batch_size",),
    "bs": ("global_batch_size", "batch_size"),
    "global_batch_size": ("batch_size",),
    "num_epochs": ("epochs",),
    "n_epochs": ("epochs",),
    "data": ("data_dir", "records_dir"),
    "dataset": ("data_dir", "records_dir"),
    "input": ("data_dir", "records_dir", "graph"),
    "input_dir": ("data_dir", "records_dir"),
    "data_dir": ("records_dir",),
    "records": ("records_dir",),
    "out": ("output_dir", "run_dir"),
    "output": ("output_dir", "run_dir"),
    "output_dir": ("run_dir",),
    "out_dir": ("output_dir", "run_dir"),
    "model_dir": ("run_dir",),
    "log_dir": ("run_dir",),
    "checkpoint": ("model", "init_from"),
    "resume": ("run_dir",),
    "model": ("graph", "backbone"),
    "arch": ("backbone",),
    "pretrained": ("weights", "init_from"),
    "gpu": ("devices",),
    "gpus": ("devices",),
    "num_gpus": ("devices",),
    "device": ("devices",),
    "workers": ("num_workers", "num_parallel_calls", "num_threads"),
    "num_workers": ("num_parallel_calls", "num_threads"),
    "num_threads": ("threads", "num_workers"),
    "jobs": ("num_workers", "num_threads"),
    "size": ("image_size",),
    "img_size": ("image_size",),
    "image_shape": ("image_size",),
    "amp": ("precision",),
    "fp16": ("precision",),
    "mixed_precision": ("precision",),
    "random_seed": ("seed",),
    "class_weights": ("class_weight",),
    "augmentation": ("augment",),
    "early_stopping": ("patience",),
    "opt": ("optimizer",),
    "wd": ("weight_decay",),
    "name": ("output_name",),
}


def _flag_meant(error: Exception, values: flags.FlagValues) -> str:
    """The flag that an unknown flag of a command line probably means; else empty."""
    if not isinstance(error, flags.UnrecognizedFlagError):
        return ""
    guesses = _GUESSES.get(error.flagname.replace("-", "_"), ())
    return next((name for name in guesses if name in values), "")


def define_flags(config_class: type, *, reports: bool = False) -> flags.FlagValues:
    """Defines the flags of a config, and the common ones, in absl."""
    values = flags.FlagValues()
    own = [*options.specs(config_class), JSON, *([REPORT] if reports else [])]
    for spec in [*own, *options.specs(CommonFlags)]:
        _define_flag(spec, values)
    # Flags may follow arguments, as in `predict *.jpg --graph=age.pb`.
    values.set_gnu_getopt(True)
    return values


def help_flag(argv: Sequence[str]) -> str:
    """The flag of a command line that asks for help or the version; else empty.

    It is found before the other flags are parsed, so that wrong flags do not prevent
    the help.
    """
    argv = list(argv)
    argv = argv[: argv.index("--")] if "--" in argv else argv
    for argument in argv:
        if argument == "-h":
            return "help"
        name = argument[1:].removeprefix("-")
        if argument.startswith("-") and name in HELP:
            return name
    return ""


def flags_as_xml(name: str, config_class: type, *, reports: bool = False) -> str:
    """The flags of a command in absl's XML, which other programs read."""
    text = io.StringIO()
    # absl takes the name of the program from here.
    sys.argv[0] = os.path.join(os.path.dirname(sys.argv[0]), name)
    define_flags(config_class, reports=reports).write_help_in_xml_format(text)
    return text.getvalue().rstrip("\n")


_DEFINE: dict[type, Callable[..., Any]] = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
    list: flags.DEFINE_list,
}


def _define_flag(spec: options.OptionSpec, values: flags.FlagValues) -> None:
    """Defines one flag in absl, and its earlier names."""
    # DEFINE_list takes no tuple.
    default = list(spec.default) if spec.type is list else spec.default
    # As in absl, -v is the only flag with a short form of one letter.
    more = {"short_name": "v"} if spec.name == "verbosity" else {}
    _DEFINE[spec.type](spec.name, default, spec.help, flag_values=values, **more)
    for alias in spec.aliases:
        flags.DEFINE_alias(alias, spec.name, flag_values=values)
