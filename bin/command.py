"""What all commands have in common: flags from a config, help, errors, exit status.

Only `absl_flags` deals with absl's flags, and only `streams` with the names of absl's
log files.  A command is a function from a config to an `Output`, with a few lines
around it::

    def main(config: BenchmarkConfig, arguments: list[str]) -> command.Output:
        result = input_benchmark.run(config)
        return command.Output(result.table(), result.to_dict())

    def run() -> None:
        command.run(main, BenchmarkConfig, about=__doc__, example="afad-...")
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import logging
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TextIO, TypeVar

from afad_tfdata import __version__
from afad_tfdata.bin import absl_flags, streams
from afad_tfdata.common import (
    errors,
    files,
    lazy_imports,
    options,
    preemption,
    remote_files,
)
from afad_tfdata.training.distributed import cluster, multi_worker

_WIDTH = 88
_NO_MEMORY = "the machine has no memory left for it"

_Config = TypeVar("_Config")


@dataclasses.dataclass(frozen=True)
class Output:
    """What a command prints at its end, and its exit status.

    Attributes:
      text: Text for people, on standard output; None if `emit` has printed everything.
      value: JSON values for programs; with ``--json`` they are printed instead.
      exit_status: 0; 1 if an input could not be used; 2 if a check found bad data.
    """

    text: str | None
    value: dict[str, Any] | list[dict[str, Any]] | None
    exit_status: int = 0


# Where results go with --json; None without the flag.
_results: streams.ResultStream | None = None


def emit(text: str, value: dict[str, Any]) -> None:
    """Prints a result of a command as soon as it is known.

    Args:
      text: For people; empty to print nothing.
      value: With ``--json`` it is printed instead, as one line of JSON.
    """
    if _results:
        _results.write(json.dumps(value))
    elif text:
        print(text, flush=True)


def run(
    main: Callable[[_Config, list[str]], Output],
    config_class: type[_Config],
    *,
    about: str | None,
    example: str,
    arguments: str = "",
    stops_on_signal: bool = False,
    reports: Callable[[_Config], dict[str, str]] | None = None,
) -> NoReturn:
    """Parses the flags, runs the command, and ends the process with its status.

    Args:
      main: Gets the config and the arguments that are not flags.
      config_class: A frozen dataclass of options; its fields are the flags.
      about: What the command does, for ``--help``.
      example: One or more command lines, for ``--help``.
      arguments: What follows the flags, such as ``IMAGE ...``; empty if the command
        takes flags only.
      stops_on_signal: Whether the signals of `preemption` ask the command to save and
        stop.
      reports: Gives the command the flag ``--report``: returns the fields of the
        `report.ReportConfig` that shows the result of a config, or raises `UsageError`.
    """
    streams.open_closed_streams()  # Before anything else opens a file.
    # A signal during the following imports must not be lost.
    if stops_on_signal:
        preemption.install()
    # On every machine without a GPU, some of TensorFlow's start lines say "error".
    lazy_imports.hide_start_lines()
    # The name is that of the program's file, because python bin/train.py and afad-train
    # are the same command.
    name = "afad-" + os.path.basename(main.__code__.co_filename)[:-3].replace("_", "-")
    if asked := absl_flags.help_flag(sys.argv[1:]):
        if asked == "version":
            text = f"{name} {__version__}"
        elif asked == "helpxml":
            text = absl_flags.flags_as_xml(name, config_class, reports=bool(reports))
        else:
            short = asked == "helpshort"
            texts = (about, example, arguments)
            text = _help_text(
                name, config_class, *texts, short=short, reports=bool(reports)
            )
        try:
            print(text, flush=True)
        except BrokenPipeError:
            # The reader has closed the pipe, as in `--help | head`.
            _drop_text(sys.stdout)
        sys.exit(0)
    # Some file names are not valid text.  In tests, stdout may be a stand-in that has
    # no such method.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    streams.start_log()
    status = _exit_status_of(
        name, main, config_class, takes_arguments=bool(arguments), reports=reports
    )
    # Python flushes once more at its end, and with text that a closed terminal does not
    # take, its status would be 120.
    if not _flush_or_drop(sys.stdout):
        status = status or 1  # Output is missing.
    _flush_or_drop(sys.stderr)
    # After use of S3 or of several workers, a normal exit would hang or abort in the
    # clean-up of the libraries.
    if remote_files.aborts_at_exit() or multi_worker.joined_cluster():
        os._exit(status)
    sys.exit(status)


def call(arguments: list[str]) -> NoReturn:
    """Runs a command in a child process (`child_process.command`).

    Args:
      arguments: Name of the module in ``bin/``, then its flags.
    """
    name, *flags = arguments
    sys.argv = [name, *flags]
    importlib.import_module(f"afad_tfdata.bin.{name}").run()
    raise AssertionError("a program ends its process")


def quiet_unless_chief() -> None:
    """Logs only warnings on a worker that is not the chief.

    Raises:
      UsageError: TF_CONFIG or the batch system's variables are wrong.
    """
    if (job := cluster.find()) and not job.is_chief:
        root = logging.getLogger()
        root.setLevel(max(root.level, logging.WARNING))  # --verbosity may allow less.
        ours = logging.getLogger("afad_tfdata")
        ours.setLevel(max(ours.level, logging.WARNING))


def _exit_status_of(
    name: str,
    main: Callable[[_Config, list[str]], Output],
    config_class: type[_Config],
    *,
    takes_arguments: bool,
    reports: Callable[[_Config], dict[str, str]] | None = None,
) -> int:
    """Runs a command; prints its output or error, and returns its exit status."""
    global _results
    _results = None
    try:
        config, rest, common = _parse_command_line(
            config_class,
            sys.argv,
            takes_arguments=takes_arguments,
            reports=bool(reports),
        )
        # Now: flags that contradict each other are an error before the work.
        shown = reports(config) if reports and common.report else None
        if common.only_check_args:
            return 0
        streams.apply_log_flags(name, common)
        _results = streams.ResultStream() if common.json else None
        with _debugger_if(common.pdb_post_mortem):
            output = main(config, rest)
        if (job := multi_worker.joined_cluster()) and not job.is_chief:
            return output.exit_status  # Only the chief prints the output.
        fault: errors.AfadError | None = None
        if shown is not None and output.exit_status == 0:
            output, fault = _with_report(output, shown)
        if output.text is not None:
            if _results:
                _results.write(json.dumps(output.value))
            else:
                print(output.text, flush=True)
        if fault is not None:
            raise fault
        return output.exit_status
    except errors.AfadError as error:
        return _print_end(name, str(error), error.exit_status)
    except BrokenPipeError:
        # Nobody reads the output any more, nor an error message.
        _drop_text(sys.stdout)
        return 1
    except OSError as error:
        text = errors.one_line(error)
        if error.errno in files.FULL:
            text += "; free space there, then run the same command again"
        return _print_end(name, text, 1)
    except MemoryError as error:
        return _print_end(
            name, f"out of memory: {errors.one_line(error) or _NO_MEMORY}", 1
        )
    except KeyboardInterrupt:
        return _print_end(name, "interrupted", 130)
    except Exception as error:
        # The class is recognised by name, because importing TensorFlow takes seconds.
        if type(error).__name__ != "ResourceExhaustedError":
            raise
        lines = str(error).splitlines() or [""]
        # A Python function inside the pipeline is out of memory, and not the device.
        if any("MemoryError" in line for line in lines):
            return _print_end(name, f"out of memory: {_NO_MEMORY}", 1)
        text = errors.one_line(next((x for x in lines if "OOM" in x), lines[0]))
        advice = "take a smaller batch, or train with --accumulation=2 or more"
        return _print_end(name, f"the device is out of memory: {text}; {advice}", 1)


def _with_report(
    output: Output, fields: dict[str, Any]
) -> tuple[Output, errors.AfadError | None]:
    """The command's output with the path of the report, which is written now."""
    # Here and not above: --help must answer in under a second.
    from afad_tfdata import report

    try:
        found = report.write_report(report.ReportConfig(**fields))
    except errors.AfadError as error:
        return output, error  # The result itself is there, and is printed.
    value = output.value
    if isinstance(value, dict):
        value = {**value, "report": found["report"]}
    text = f"{output.text}\nreport: {found['report']}"
    return dataclasses.replace(output, text=text, value=value), None


def _flush_or_drop(stream: TextIO) -> bool:
    """Flushes a stream, or drops its text if nothing takes it; whether it was taken."""
    try:
        stream.flush()
    except (OSError, ValueError):  # ValueError: the stream is closed.
        _drop_text(stream)
        return False
    return True


def _drop_text(stream: TextIO) -> None:
    """Sends the rest of a stream's text nowhere, so that its flush cannot fail."""
    # A stream that is closed, or a stand-in for one, may have no file descriptor.
    with contextlib.suppress(OSError, ValueError):
        number = stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)
        stream.flush()


def _print_end(name: str, message: str, status: int) -> int:
    """Prints why the command ends, as one line; returns the status."""
    label = "stopped" if status == errors.PreemptedError.exit_status else "error"
    text = errors.printable(" ".join(message.split()))
    # A terminal that was closed takes no more text, and the status must still be right.
    _flush_or_drop(sys.stdout)
    with contextlib.suppress(OSError, ValueError):
        print(f"{name}: {label}: {text}", file=sys.stderr)
    return status


@contextlib.contextmanager
def _debugger_if(wanted: bool) -> Iterator[None]:
    """Starts the debugger after a command's error, if somebody is there to type."""
    try:
        yield
    except Exception:
        if wanted and sys.stdin.isatty() and sys.stdout.isatty():
            import pdb
            import traceback

            traceback.print_exc()
            pdb.post_mortem()
        raise


def _parse_command_line(
    config_class: type[_Config],
    argv: Sequence[str],
    *,
    takes_arguments: bool,
    reports: bool = False,
) -> tuple[_Config, list[str], absl_flags.CommonFlags]:
    """A command's config, its arguments that are not flags, and the common flags."""
    fields, common, rest = absl_flags.parse_flags(config_class, argv, reports=reports)
    if rest and not takes_arguments:
        raise errors.UsageError(
            f"takes no arguments, only flags; got {rest[0]!r} (a flag starts with --)"
        )
    return config_class(**fields), rest, common


def _help_text(
    name: str,
    config_class: type,
    about: str | None,
    example: str,
    arguments: str,
    *,
    short: bool,
    reports: bool,
) -> str:
    """The text of a command's ``--help``."""
    lines = [f"{name} {__version__}", "", textwrap.dedent(about or "").strip(), ""]
    lines += [f"usage: {name} [flags] {arguments}".rstrip()]
    part = None  # No part has begun yet, not even that of the config's own fields.
    last = [absl_flags.JSON, *([absl_flags.REPORT] if reports else [])]
    for spec in [*options.specs(config_class), *last]:
        if spec.part != part:
            own = "flags:" if part is None else "more flags:"
            lines += ["", f"flags of the {spec.part}:" if spec.part else own]
            part = spec.part
        lines += _flag_help(spec)
    if not short:
        lines += ["", "flags of every command:"]
        for spec in absl_flags.common_flags():
            lines += _flag_help(spec)
    lines += ["", "example:"]  # The last lines are those that a terminal shows.
    lines += [f"  {line}" for line in example.strip().splitlines()]
    return "\n".join(lines)


def _flag_help(spec: options.OptionSpec) -> list[str]:
    """The lines of a command's ``--help`` on one flag."""
    if spec.name in absl_flags.HELP:
        return [f"  --{spec.name}", f"      {spec.help}"]
    if spec.type is bool:
        head = f"  --[no]{spec.name}"
    else:
        kind = {str: "TEXT", int: "N", float: "X", list: "A,B"}[spec.type]
        kind = {"flagfile": "FILE", "log_dir": "DIR"}.get(spec.name, kind)
        head = f"  --{spec.name}={'|'.join(spec.choices) if spec.choices else kind}"
    text = spec.help
    default = spec.default
    if spec.type is list:
        default = ",".join(default or ())
    if default not in (None, ""):
        shown = str(default).lower() if spec.type is bool else default
        if spec.type is float:
            shown = f"{default:g}"  # Prints 0, as the help text does, and not 0.0.
        text += f" (default: {shown})"
    wrapped = textwrap.wrap(text, _WIDTH - 6)
    return [head, *(f"      {line}" for line in wrapped)]
