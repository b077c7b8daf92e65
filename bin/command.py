"""What every command does alike: flags from a config, help, errors, exit status.

The only module that knows absl.  A command is a function from a config to an `Output`,
and a few lines around it::

    def main(config, arguments):
        result = records.write_records(config)
        return command.Output(result.table(), result.to_dict())

    def run():
        command.run(main, records.WriteConfig, about=__doc__, example="...")
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import flags

from afad_tfdata import __version__
from afad_tfdata.common import errors, files, options, preemption
from afad_tfdata.training.distributed import cluster, multi_worker

_HELP = frozenset(("-h", "-help", "--help", "--helpshort", "--helpfull"))
_WIDTH = 88
_NO_MEMORY = "the machine has no more memory for it"


@dataclasses.dataclass(frozen=True)
class Output:
    """What a command has to say at its end.

    Attributes:
      text: For people, on standard output.
      value: For programs: JSON values, printed instead with ``--json``.
      exit_status: 0, or what the result amounts to.
    """

    text: str
    value: Any
    exit_status: int = 0


def run(
    main: Callable[[Any, list[str]], Output],
    config_class: type,
    *,
    about: str | None,
    example: str,
    arguments: str = "",
    stops_on_signal: bool = False,
) -> NoReturn:
    """Parses the flags, runs the command, and ends the process with its status.

    Args:
      main: Gets the config and the arguments that are not flags.
      config_class: A frozen dataclass of options; its fields are the flags.
      about: What the command does, for ``--help``.
      example: One or more command lines, for ``--help``.
      arguments: What stands behind the flags, such as ``IMAGE ...``; empty where the
        command takes none.
      stops_on_signal: SIGTERM and SIGUSR1 ask the command to save and stop.
    """
    # First of all, so that a signal during the imports that follow is not lost.
    if stops_on_signal:
        preemption.install()
    # TensorFlow's own lines at start, some of them marked as errors on every machine
    # without a GPU, would drown ours; what goes wrong raises all the same.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    name = "afad-" + os.path.basename(main.__code__.co_filename)[:-3].replace("_", "-")
    if any(a in _HELP for a in _before_dashes(sys.argv[1:])):
        try:
            print(_help(name, config_class, about, example, arguments), flush=True)
        except BrokenPipeError:
            _drop_output()  # As in `--help | head`.
        sys.exit(0)
    if hasattr(sys.stdout, "reconfigure"):  # File names may be no valid text.
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )
    status = _run(name, main, config_class, arguments)
    if files.aborts_at_exit() or multi_worker.joined():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def quiet_unless_chief() -> None:
    """Leaves lines that are no warnings to the chief, under several workers.

    Raises:
      UsageError: As `cluster.find` does.
    """
    if (job := cluster.find()) and not job.is_chief:
        logging.getLogger().setLevel(logging.WARNING)


def _run(
    name: str, main: Callable[[Any, list[str]], Output], config_class: type, wants: str
) -> int:
    try:
        config, rest, as_json = _parse(config_class, sys.argv, wants)
        output = main(config, rest)
        if (job := multi_worker.joined()) and not job.is_chief:
            return output.exit_status  # The chief says it.
        print(json.dumps(output.value) if as_json else output.text)
        sys.stdout.flush()
        return output.exit_status
    except errors.AfadError as error:
        return _say(name, str(error), error.exit_status)
    except BrokenPipeError:
        _drop_output()  # Whoever read it has gone; nobody is left to be told.
        return 1
    except OSError as error:
        text = errors.one_line(error)
        if error.errno in files.FULL:
            text += "; free space there, then run the same command again"
        return _say(name, text, 1)
    except MemoryError as error:
        return _say(name, f"out of memory: {errors.one_line(error) or _NO_MEMORY}", 1)
    except KeyboardInterrupt:
        return _say(name, "interrupted", 130)
    except Exception as error:
        # TensorFlow's class, known by name: this module does not import it.
        if type(error).__name__ != "ResourceExhaustedError":
            raise
        lines = str(error).splitlines() or [""]
        if any("MemoryError" in line for line in lines):  # Of a function in Python.
            return _say(name, f"out of memory: {_NO_MEMORY}", 1)
        told = next((line for line in lines if "OOM" in line), lines[0])
        text = errors.one_line(told)
        advice = "take a smaller batch, or train with --accumulation=2 or more"
        return _say(name, f"the device is out of memory: {text}; {advice}", 1)


def _drop_output() -> None:
    """Lets the flush at the end of the process go nowhere, and not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(name: str, message: str, status: int) -> int:
    sys.stdout.flush()
    label = "stopped" if status == errors.PreemptedError.exit_status else "error"
    text = errors.printable(" ".join(message.split()))
    print(f"{name}: {label}: {text}", file=sys.stderr)
    return status


def _parse(
    config_class: type, argv: Sequence[str], wants: str
) -> tuple[Any, list[str], bool]:
    """The config, the arguments that are not flags, and whether JSON is wanted."""
    values = flags.FlagValues()
    for spec in options.specs(config_class):
        define = {
            str: flags.DEFINE_string,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            bool: flags.DEFINE_bool,
            list: flags.DEFINE_list,
        }[spec.type]
        default = list(spec.default) if spec.type is list else spec.default
        define(spec.name, default, spec.help, flag_values=values)
    flags.DEFINE_bool("json", False, "Print the result as JSON.", flag_values=values)
    # Flags may stand behind arguments, as in `predict *.jpg --graph=age.pb`.
    values.set_gnu_getopt(True)
    try:
        rest = values(list(argv))[1:]
    except (flags.Error, ValueError) as error:  # The latter for --noFLAG=VALUE.
        text = errors.one_line(error)
        raise errors.UsageError(f"{text} (--help lists the flags)") from error
    if rest and not wants:
        raise errors.UsageError(
            f"takes no arguments, only flags; got {rest[0]!r} (a flag starts with --)"
        )
    names = [spec.name for spec in options.specs(config_class)]
    fields = {
        name: tuple(value) if isinstance(value := values[name].value, list) else value
        for name in names
    }
    return config_class(**fields), rest, values["json"].value


def _before_dashes(argv: Sequence[str]) -> list[str]:
    """The part of the command line in which flags are read."""
    argv = list(argv)
    return argv[: argv.index("--")] if "--" in argv else argv


def _help(
    name: str, config_class: type, about: str | None, example: str, arguments: str
) -> str:
    lines = [f"{name} {__version__}", "", textwrap.dedent(about or "").strip(), ""]
    lines += [f"usage: {name} [flags] {arguments}".rstrip(), "", "flags:"]
    for spec in options.specs(config_class):
        lines += _flag_help(spec)
    lines += _flag_help(
        options.OptionSpec("json", bool, False, "Print the result as JSON.", None)
    )
    lines += ["  --flagfile=FILE", "      Read flags from a file, one a line."]
    lines += ["", "example:"]  # Last, where a terminal shows it.
    lines += [f"  {line}" for line in example.strip().splitlines()]
    return "\n".join(lines)


def _flag_help(spec: options.OptionSpec) -> list[str]:
    if spec.type is bool:
        head = f"  --[no]{spec.name}"
    else:
        kind = {str: "TEXT", int: "N", float: "X", list: "A,B"}[spec.type]
        head = f"  --{spec.name}={'|'.join(spec.choices) if spec.choices else kind}"
    text = spec.help
    default = spec.default
    if spec.type is list:
        default = ",".join(default or ())
    if default not in (None, ""):
        shown = str(default).lower() if spec.type is bool else default
        text += f" (default: {shown})"
    wrapped = textwrap.wrap(text, _WIDTH - 6)
    return [head, *(f"      {line}" for line in wrapped)]
