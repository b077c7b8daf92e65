"""The directory of a run: what is in it, and whether a command may continue it.

::

    flags.txt        the flags that differ from their defaults, for --flagfile
    config.json      flags, model, mean, class names; derived numbers of the last start
    history.json  history.png  metrics.jsonl  tensorboard/
    checkpoints/     step-0000001234.ckpt ...
    best.keras  final.keras
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from afad_tfdata.common import errors, files, locks, options
from afad_tfdata.models import facts, model_files, networks
from afad_tfdata.storage import joined_data_sets, schema
from afad_tfdata.training import config as train_config
from afad_tfdata.training import history, metrics_log, tensorboard_events
from afad_tfdata.training.caller import fingerprints
from afad_tfdata.training.distributed import multi_worker

CONFIG_NAME = "config.json"
FLAGS_NAME = "flags.txt"
CHECKPOINTS_NAME = "checkpoints"
EVENTS_NAME = "tensorboard"
BEST_NAME = "best.keras"
FINAL_NAME = "final.keras"
PREVIEW_NAME = "augmentation.png"
# Files that the command names at its end, after the models.
BESIDE = (
    *(CONFIG_NAME, history.JSON_NAME, history.PICTURE_NAME, metrics_log.LINES_NAME),
    *(f"{CHECKPOINTS_NAME}/", f"{EVENTS_NAME}/"),
)
# Files of the trainer directly in the directory, where evaluation may also write.
_OWN = (
    r"(config|history|calibration)\.json|flags\.txt|history\.png|metrics\.jsonl"
    r"|(best|final)\.keras"
)

_log = logging.getLogger(__name__)


class RunDir:
    """One run's directory, which this process locks until `close`.

    Args:
      path: The directory; it is created if necessary.

    Raises:
      UsageError: It cannot be created, or another process trains in it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        files.make_dirs(self.checkpoints)
        self._lock = _lock_run_dir(self.join(".lock"))
        # Under the lock, no other process can be writing the temporary files.
        if self._lock.works:
            files.remove_temporary(self.path, _OWN)
            files.remove_temporary(self.checkpoints)

    def join(self, name: str) -> str:
        """Path of a file in the directory."""
        return os.path.join(self.path, name)

    @property
    def checkpoints(self) -> str:
        """Directory of the checkpoints."""
        return self.join(CHECKPOINTS_NAME)

    def close(self) -> None:
        """Unlocks the directory, so that another process can train in it."""
        self._lock.release()

    def stored(self) -> dict[str, Any] | None:
        """Content of ``config.json``; None if no run has begun here."""
        if not os.path.exists(self.join(CONFIG_NAME)):
            return None
        return read_config(self.path)

    def check(
        self, stored: dict[str, Any], config: train_config.TrainConfig, records: str
    ) -> None:
        """Raises `UsageError` if this config and data set do not continue the run.

        Args:
          stored: From `stored`.
          config: The command's config.
          records: `records_digest` of the data set.
        """
        differing = train_config.differences(stored["train"], config)
        if stored.get("records_digest") != records:
            differing.insert(0, "the content of --records_dir")
        if differing:
            raise errors.UsageError(
                f"{self.path} contains a run of another configuration; it differs in"
                f" {', '.join(differing)}: take the flags of that run, or another"
                " --run_dir, or go back with --start_epoch=N, which lets rates and"
                " numbers of epochs change"
            )

    def check_parts(self, parts: dict[str, Any]) -> None:
        """Raises `UsageError` if the caller's parts do not continue the run.

        Args:
          parts: `CallerObjects.described`.
        """
        # Earlier versions recorded no parts, or only which there were.
        before = (self.stored() or {}).get("parts", {})
        for name, value in parts.items():
            stored = before.get(name, value)
            if fingerprints.may_be_the_same(str(stored or ""), value):
                continue
            if stored is True and value:
                continue
            what = _PARTS.get(name, f"{name} of your own")
            came = f"{'a' if stored else 'no'} {what}"
            if stored and value:
                came = f"another {what} than here"
                if name.endswith("_dataset"):
                    came += f" ({stored} there, {value} here)"
            raise errors.UsageError(
                f"{self.path} contains a run with {came}: pass the same as there, or"
                " take another --run_dir"
            )

    def write_config(self, config: train_config.TrainConfig, **more: Any) -> None:
        """Writes ``config.json`` and ``flags.txt``."""
        value = {"train": options.to_dict(config), **more}
        files.write_json(self.join(CONFIG_NAME), files.seal_json(value))
        try:
            lines = options.flag_lines(config)
        except ValueError:  # Only programs, not the command, can start such a run.
            files.remove_if_there(self.join(FLAGS_NAME))
            return
        text = "".join(f"{line}\n" for line in lines)
        # File names may not be valid text.
        content = text.encode("utf-8", "surrogateescape")
        files.write_atomic(self.join(FLAGS_NAME), content)

    def has_models(self) -> bool:
        """Whether both models exist, as at the end of a run."""
        return all(os.path.exists(self.join(n)) for n in (BEST_NAME, FINAL_NAME))

    def model_paths(self) -> dict[str, str]:
        """The paths of the models that exist, as ``best`` and ``final``."""
        paths = {"best": self.join(BEST_NAME), "final": self.join(FINAL_NAME)}
        return {name: path for name, path in paths.items() if os.path.exists(path)}

    def save_model(self, model: Any, name: str) -> None:
        """Saves a Keras model and its facts, completely or not at all."""
        path = self.join(name)
        # Keras chooses the format by the end of the file's name.
        temporary = f"{path}.tmp-{os.getpid()}.keras"
        try:
            model_files.save(model, temporary)
            os.replace(temporary, path)
        except OSError as error:
            files.remove_if_there(temporary)
            raise files.write_error(path, error) from error
        except errors.UsageError:
            files.remove_if_there(temporary)
            raise

    def cut(self, step: int) -> None:
        """Removes the log lines and TensorBoard events of later steps."""
        metrics_log.cut_lines(self.path, step)
        for part in ("train", "validation"):
            tensorboard_events.cut(self.events(part), step)

    def events(self, part: str) -> str:
        """Directory of the events of ``train`` or ``validation``."""
        return os.path.join(self.path, EVENTS_NAME, part)


@contextlib.contextmanager
def hold(path: str, workers: multi_worker.Workers) -> Iterator[RunDir]:
    """The run's directory, locked by the chief; a temporary one for other workers.

    Saving a model may read values that can only be read by all workers together, so
    that all of them save it.

    Args:
      path: The run directory.
      workers: The job's workers.

    Raises:
      UsageError: `RunDir` raised it on the chief; every worker raises it.
    """
    held: list[RunDir] = []
    scratch = ""
    workers.from_chief(lambda: held.append(RunDir(path)))
    if not held:
        scratch = tempfile.mkdtemp(prefix="afad-worker-")
        held.append(RunDir(scratch))
    try:
        yield held[0]
    finally:
        held[0].close()
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


# Parts whose name alone does not say what differs.
_PARTS = {
    "model": "model of your own, by its layers,",
    "functions": "function in a layer of the model",
    "preset": "preset of keras-hub",
}


def read_config(path: str) -> dict[str, Any]:
    """``config.json`` of a run directory.

    Raises:
      UsageError: The directory contains no run.
      DataError: The file is damaged.
    """
    value = files.read_json(
        os.path.join(path, CONFIG_NAME),
        what="the run's configuration",
        advice="--run_dir names a directory in which afad-train has trained",
    )
    if not isinstance(value, dict) or not isinstance(value.get("train"), dict):
        raise errors.DataError(
            f"{os.path.join(path, CONFIG_NAME)} is not a run's configuration: it has"
            " no part 'train'; take another --run_dir"
        )
    return files.unseal_json(value, os.path.join(path, CONFIG_NAME))


def config_of(path: str) -> dict[str, Any]:
    """``config.json`` of the run that a file is in, and its directory; empty if none.

    Args:
      path: A model, or a checkpoint, which is one folder deeper.

    Raises:
      DataError: The run's configuration is damaged.
    """
    directory = os.path.dirname(os.path.abspath(path))
    for candidate in (directory, os.path.dirname(directory)):
        if os.path.exists(os.path.join(candidate, CONFIG_NAME)):
            try:
                value = read_config(candidate)
            except errors.DataError:
                if os.path.isdir(os.path.join(candidate, CHECKPOINTS_NAME)):
                    raise
                continue  # Other programs also write a config.json.
            return {**value, "directory": candidate}
    return {}


def known_facts(
    own: facts.Facts, run: Mapping[str, Any], *, path: str = "", model: Any = None
) -> facts.Facts:
    """The facts in a model's file, completed by the ``config.json`` of its run.

    Both say the same, except in runs of version 0.1.0.  A file that was copied into the
    directory of another run gets nothing from it.

    Args:
      own: Facts from the file.
      run: From `config_of`.
      path: The file.
      model: Its Keras model; None for a checkpoint, whose values fit the run's network
        or are refused.
    """
    if own.network:
        network = run.get("model")
        other = network and dict(own.network) != network
        return own if other else _completed_facts(own, run)
    if run and model is not None and not _is_of_run(run, path, model):
        _log.warning(
            "%s is not one of the models that the run in %s trained: what the run says"
            " about its models is not used for it",
            *(path, run.get("directory", "its folder")),
        )
        return own
    return _completed_facts(own, run)


def _completed_facts(own: facts.Facts, run: Mapping[str, Any]) -> facts.Facts:
    """A model's own facts, completed by the ``config.json`` of its run."""
    return own.or_else(facts_of_run(run))


def _is_of_run(run: Mapping[str, Any], path: str, model: Any) -> bool:
    """Whether a file that says nothing of itself is one of the run's models.

    It has one of their names and, if the run built the network itself, weights of the
    same shapes: Keras loses what the file said when it saves a model again.
    """
    if os.path.basename(path) not in (BEST_NAME, FINAL_NAME):
        return False
    if not run.get("model"):
        return True
    # A SavedModel has no such list.
    found = sorted(tuple(w.shape) for w in getattr(model, "weights", ()))
    config = options.from_dict(networks.ModelConfig, run["model"], where=path)
    built = networks.build_model(config, load_weights=False)
    return found == sorted(tuple(w.shape) for w in built.weights)


def facts_of_run(run: Mapping[str, Any]) -> facts.Facts:
    """The facts that a run's ``config.json`` has about its models.

    Args:
      run: From `read_config`; empty if there is no run.
    """
    # Without records, version 0.1.0 wrote default names that nobody had given.
    names = run.get("class_names") if run.get("train", {}).get("records_dir") else ()
    return facts.from_dict(
        {
            "network": run.get("model"),
            "class_names": names,
            "mean": run.get("mean"),
            "age_range": run.get("age_range"),
            "input_range": "normalized" if run else "",
            "face_crop": run.get("face_crop"),
            "decode": run.get("decode"),
        },
        where=os.path.join(run.get("directory", "the run"), CONFIG_NAME),
    )


def data_set_of_run(directory: str, stored: Mapping[str, Any]) -> str:
    """`find_data_set` for a run; of several places, the one with the same content.

    Another folder of the same name may be nearer, as in the working directory.

    Args:
      directory: The run directory.
      stored: Its configuration, from `read_config`; empty if there is no run.
    """
    train = stored.get("train", {})
    records_dir, digest = train.get("records_dir", ""), stored.get("records_digest")
    if not records_dir:
        return ""
    parts = joined_data_sets.directories(records_dir)
    # The training command had one working directory for all its paths.
    joined = (
        tuple(part if _is_fixed(part) else files.join(folder, part) for part in parts)
        for folder in _working_directories(directory)
    )
    found = [one for one in dict.fromkeys(joined) if all(map(_is_data_set, one))]
    if digest and len(found) > 1:
        for one in map(",".join, found):
            # What is damaged is not the data set.
            with contextlib.suppress(errors.AfadError):
                manifest = joined_data_sets.load_manifest(
                    one, train.get("max_examples") or 0
                )
                if records_digest(manifest) == digest:
                    return one
    return find_data_set(directory, records_dir)


def find_data_set(directory: str, records_dir: str) -> str:
    """Path of the data set that a run was trained on; empty if it is not found.

    Several paths, separated by commas, are found one by one.

    Args:
      directory: The run directory.
      records_dir: The path in its configuration.  A relative path is tried from the
        working directory, and from the folders above the run directory, because the
        training command may have been started in any of them.
    """
    parts = [
        _find_one_data_set(directory, part)
        for part in joined_data_sets.directories(records_dir)
    ]
    return ",".join(parts) if all(parts) else ""


def _find_one_data_set(directory: str, records_dir: str) -> str:
    """`find_data_set` for one path."""
    if not records_dir:
        return ""
    if _is_fixed(records_dir):
        return records_dir if _is_data_set(records_dir) else ""
    places = (files.join(one, records_dir) for one in _working_directories(directory))
    return next(filter(_is_data_set, places), "")


def _is_fixed(path: str) -> bool:
    """Whether a path does not depend on the working directory."""
    return os.path.isabs(path) or files.is_remote(path)


def _is_data_set(path: str) -> bool:
    """Whether a finished data set is at a path."""
    return files.exists(files.join(path, schema.MANIFEST_NAME))


def _working_directories(directory: str) -> Iterator[str]:
    """Where the training command may have been started: here, or above the run."""
    yield ""
    above = os.path.abspath(directory)
    while above != (parent := os.path.dirname(above)):
        above = parent
        yield above


def records_digest(manifest: schema.Manifest | None) -> str:
    """A digest by which a run directory knows its records; empty without records."""
    if manifest is None:
        return ""
    return hashlib.sha256(schema.manifest_bytes(manifest)).hexdigest()


def _lock_run_dir(path: str) -> locks.FileLock:
    """Locks a run directory, which one process holds at a time."""
    try:
        return locks.FileLock(path)
    except BlockingIOError as error:
        raise errors.UsageError(
            f"another process trains in {os.path.dirname(path)}: wait for its end,"
            " or take another --run_dir"
        ) from error
