"""What all commands have in common: flags from a config, help, errors, exit status.

This is the only module that knows absl.  A command is a function from a config to an
`Output`, with a few lines around it::

    def main(config: BenchmarkConfig, arguments: list[str]) -> command.Output:
        result = input_benchmark.run(config)
        return command.Output(result.table(), result.to_dict())

    def run() -> None:
        command.run(main, BenchmarkConfig, about=__doc__, example="afad-...")
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from absl import flags

from afad_tfdata import __version__
from afad_tfdata.common import errors, files, options, preemption
from afad_tfdata.training.distributed import cluster, multi_worker

_HELP = frozenset(("-h", "-help", "--help", "--helpshort", "--helpfull"))
_WIDTH = 88
_NO_MEMORY = "the machine has no memory left for it"
_JSON = options.OptionSpec("json", bool, False, "Print the result as JSON.", None)
_DEFINE: dict[type, Callable[..., Any]] = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
    list: flags.DEFINE_list,
}

_Config = TypeVar("_Config")


@dataclasses.dataclass(frozen=True)
class Output:
    """What a command prints at its end, and its exit status.

    Attributes:
      text: Text for people, on standard output.
      value: JSON values for programs; with ``--json`` they are printed instead.
      exit_status: 0, or 2 if a check found bad data.
    """

    text: str
    value: dict[str, Any] | list[dict[str, Any]]
    exit_status: int = 0


def run(
    main: Callable[[_Config, list[str]], Output],
    config_class: type[_Config],
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
      arguments: What follows the flags, such as ``IMAGE ...``; empty if the command
        takes flags only.
      stops_on_signal: Whether SIGTERM and SIGUSR1 ask the command to save and stop.
    """
    # Before everything else: a signal during the imports that follow must not be lost.
    if stops_on_signal:
        preemption.install()
    # TensorFlow logs many lines at its start, and calls some of them errors on every
    # machine without a GPU.  They would hide ours; real errors are raised anyway.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Of the program's file, since python bin/train.py and afad-train are one command.
    name = "afad-" + os.path.basename(main.__code__.co_filename)[:-3].replace("_", "-")
    if any(a in _HELP for a in _before_dashes(sys.argv[1:])):
        try:
            print(_help(name, config_class, about, example, arguments), flush=True)
        except BrokenPipeError:
            _drop_output()  # The reader has closed the pipe, as in `--help | head`.
        sys.exit(0)
    # File names may not be valid text.  A test's stand-in for stdout cannot do this.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )
    status = _run(name, main, config_class, takes_arguments=bool(arguments))
    # A normal exit would hang or abort in these libraries' own clean-up.
    if files.aborts_at_exit() or multi_worker.joined():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def quiet_unless_chief() -> None:
    """Logs only warnings on a worker that is not the chief.

    Raises:
      UsageError: TF_CONFIG or the batch system's variables are wrong.
    """
    if (job := cluster.find()) and not job.is_chief:
        logging.getLogger().setLevel(logging.WARNING)


def _run(
    name: str,
    main: Callable[[_Config, list[str]], Output],
    config_class: type[_Config],
    *,
    takes_arguments: bool,
) -> int:
    """Runs the command and prints its output, or its error; returns the exit status."""
    try:
        config, rest, as_json = _parse(
            config_class, sys.argv, takes_arguments=takes_arguments
        )
        output = main(config, rest)
        if (job := multi_worker.joined()) and not job.is_chief:
            return output.exit_status  # The chief prints it.
        print(json.dumps(output.value) if as_json else output.text)
        sys.stdout.flush()
        return output.exit_status
    except errors.AfadError as error:
        return _say(name, str(error), error.exit_status)
    except BrokenPipeError:
        _drop_output()  # Nobody reads the output any more, nor an error message.
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
        # TensorFlow's class by its name, because importing it takes seconds.
        if type(error).__name__ != "ResourceExhaustedError":
            raise
        lines = str(error).splitlines() or [""]
        # A Python function inside the pipeline ran out of memory, not the device.
        if any("MemoryError" in line for line in lines):
            return _say(name, f"out of memory: {_NO_MEMORY}", 1)
        text = errors.one_line(next((x for x in lines if "OOM" in x), lines[0]))
        advice = "take a smaller batch, or train with --accumulation=2 or more"
        return _say(name, f"the device is out of memory: {text}; {advice}", 1)


def _drop_output() -> None:
    """Sends the rest of the output nowhere, so that the flush at exit cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(name: str, message: str, status: int) -> int:
    """Prints why the command ends, as one line; returns the status."""
    sys.stdout.flush()
    label = "stopped" if status == errors.PreemptedError.exit_status else "error"
    text = errors.printable(" ".join(message.split()))
    print(f"{name}: {label}: {text}", file=sys.stderr)
    return status


def _parse(
    config_class: type[_Config], argv: Sequence[str], *, takes_arguments: bool
) -> tuple[_Config, list[str], bool]:
    """The config, the arguments that are not flags, and whether to print JSON."""
    values = flags.FlagValues()
    specs = list(options.specs(config_class))
    for spec in [*specs, _JSON]:
        _define(spec, values)
    # Flags may follow arguments, as in `predict *.jpg --graph=age.pb`.
    values.set_gnu_getopt(True)
    try:
        rest = values(list(argv))[1:]
    except (flags.Error, ValueError) as error:  # ValueError comes for --noFLAG=VALUE.
        text = errors.one_line(error)
        raise errors.UsageError(f"{text} (--help lists the flags)") from error
    if rest and not takes_arguments:
        raise errors.UsageError(
            f"takes no arguments, only flags; got {rest[0]!r} (a flag starts with --)"
        )
    given = {spec.name: values[spec.name].value for spec in specs}
    # The fields of a frozen config are tuples, so that it has a hash.
    fields = {n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}
    return config_class(**fields), rest, bool(values["json"].value)


def _define(spec: options.OptionSpec, values: flags.FlagValues) -> None:
    """Defines a flag, and its earlier names."""
    # DEFINE_list takes no tuple.
    default = list(spec.default) if spec.type is list else spec.default
    _DEFINE[spec.type](spec.name, default, spec.help, flag_values=values)
    for alias in spec.aliases:
        flags.DEFINE_alias(alias, spec.name, flag_values=values)


def _before_dashes(argv: Sequence[str]) -> list[str]:
    """The part of the command line that may contain flags."""
    argv = list(argv)
    return argv[: argv.index("--")] if "--" in argv else argv


def _help(
    name: str, config_class: type, about: str | None, example: str, arguments: str
) -> str:
    lines = [f"{name} {__version__}", "", textwrap.dedent(about or "").strip(), ""]
    lines += [f"usage: {name} [flags] {arguments}".rstrip()]
    part = None  # No part yet, not even the config's own fields.
    for spec in [*options.specs(config_class), _JSON]:
        if spec.part != part:
            own = "flags:" if part is None else "more flags:"
            lines += ["", f"flags of the {spec.part}:" if spec.part else own]
            part = spec.part
        lines += _flag_help(spec)
    lines += ["  --flagfile=FILE", "      Read flags from a file, one flag a line."]
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
        if spec.type is float:
            shown = f"{default:g}"  # 0, as the text calls it, and not 0.0.
        text += f" (default: {shown})"
    wrapped = textwrap.wrap(text, _WIDTH - 6)
    return [head, *(f"      {line}" for line in wrapped)]
