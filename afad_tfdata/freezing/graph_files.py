"""Verified files: a graph in several formats, which get their names once verified.

Each file is written under a temporary name in the same directory.  `take_names` gives
all of them their final names.  When the block ends, files without one are removed::

    with graph_files.VerifiedFiles("out", "face") as output:
        output.write(frozen, [export_formats.FORMATS["graph"]])
        (comparison,) = verification.check(output.candidates(frozen, cases))
        ...
        output.take_names(mean, description)
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from afad_tfdata.common import errors, files
from afad_tfdata.freezing import export_formats, quantization, verification
from afad_tfdata.storage import schema


@dataclasses.dataclass(frozen=True)
class WrittenFile:
    """One format of a graph, written but not yet named.

    Attributes:
      export_format: Its format.
      temporary: Where it is now.
      path: Where it will be.
    """

    export_format: export_formats.ExportFormat
    temporary: str
    path: str


class VerifiedFiles:
    """The files of one frozen graph in one local directory.

    Attributes:
      written: The formats that were written, NAME.pb first.

    Args:
      directory: Directory to write to; it must exist.
      name: NAME.
    """

    def __init__(self, directory: str, name: str) -> None:
        self.written: list[WrittenFile] = []
        self._directory, self._name = directory, name

    def __enter__(self) -> VerifiedFiles:
        self._remove_left_behind()
        return self

    def __exit__(self, *unused: object) -> None:
        # A file that has got its final name no longer exists under the temporary one.
        for file in self.written:
            _remove_file_or_directory(file.temporary)

    def write(
        self,
        frozen: export_formats.FrozenGraph,
        formats: Sequence[export_formats.ExportFormat],
    ) -> None:
        """Writes the files of a graph, one in each format; a second call replaces them.

        Args:
          frozen: The graph.
          formats: The formats to write; the format of NAME.pb comes first.

        Raises:
          UsageError: The graph cannot be written in a format.
        """
        self.written = [self._file(export_format) for export_format in formats]
        for file in self.written:
            file.export_format.write(frozen, file.temporary)

    def candidates(
        self,
        frozen: export_formats.FrozenGraph,
        cases: Mapping[str, Sequence[verification.Case]],
    ) -> list[verification.Candidate]:
        """The candidates for `verification.check`, one for each file of the graph.

        Args:
          frozen: The graph that was written.
          cases: What each format is verified on, by the name of the format.  A format
            that is missing here is fed what NAME.pb is fed, and is verified on the
            cases of ``graph``.
        """
        return [
            verification.Candidate(
                file.temporary,
                *file.export_format.names(frozen.feed, frozen.fetches),
                cases.get(file.export_format.name, cases["graph"]),
            )
            for file in self.written
        ]

    def failure(
        self,
        comparisons: Sequence[verification.Comparison],
        tolerance: float,
        rounding: Mapping[str, float],
    ) -> str:
        """The first difference of a graph's file that is too large; empty for none.

        Args:
          comparisons: One for each written file.
          tolerance: As for `verification.Comparison.failure`.
          rounding: As for `verification.Comparison.failure`.
        """
        for file, comparison in zip(self.written, comparisons, strict=True):
            if file.export_format.quantization:
                continue  # It never equals the model; `refuse_losses` judges it.
            text = comparison.failure(tolerance, rounding)
            if text:
                return f"{os.path.basename(file.path)}: {text}"
        return ""

    def refuse_losses(
        self,
        comparisons: Sequence[verification.Comparison],
        limits: quantization.QuantizationLimits,
    ) -> None:
        """Refuses a graph's file with fewer bits that loses too much.

        Args:
          comparisons: One for each written file.
          limits: What such a file may lose.

        Raises:
          DataError: It loses more.
        """
        for file, comparison in zip(self.written, comparisons, strict=True):
            failure = file.export_format.quantization and limits.failure(comparison)
            if failure:
                raise errors.DataError(
                    f"{os.path.basename(file.path)} loses too much: {failure}; nothing"
                    f" was written (leave out --{file.export_format.flag}, or allow"
                    " more)"
                )

    def max_difference(
        self, comparisons: Sequence[verification.Comparison]
    ) -> dict[str, float]:
        """The largest difference, by label, of files that must equal the graph's model.

        Args:
          comparisons: One for each written file.
        """
        exact = [
            comparison.max_difference
            for file, comparison in zip(self.written, comparisons, strict=True)
            if not file.export_format.quantization
        ]
        return {label: max(by_label[label] for by_label in exact) for label in exact[0]}

    def take_names(
        self, mean: Sequence[float] | None, description: Mapping[str, Any]
    ) -> list[str]:
        """Gives the graph's files their names, and writes mean.json and NAME.json.

        An older NAME.json is removed first, and the new one is written last.  A process
        that is killed in between therefore leaves files without a description, but
        never a description of other files.  Readers refuse a graph without a
        description.

        Args:
          mean: Channel means R, G, B in [0, 255]; None writes no mean.json.
          description: The content of NAME.json.

        Returns:
          Paths of everything that was written, NAME.pb first, NAME.json last.
        """
        description_path = files.join(self._directory, f"{self._name}.json")
        files.remove_if_there(description_path)
        for file in self.written:
            # A rename cannot replace a directory that is not empty.
            if os.path.isdir(file.path):
                shutil.rmtree(file.path)
            os.replace(file.temporary, file.path)
        # The renames must be on the disk before the description of the files is.
        files.fsync_dir(self._directory)
        paths = [file.path for file in self.written]
        if mean is not None:
            mean_path = files.join(self._directory, schema.MEAN_NAME)
            files.write_json(mean_path, dict(zip("RGB", mean, strict=True)))
            paths.append(mean_path)
        files.write_json(description_path, files.seal_json(description))
        return [*paths, description_path]

    def _file(self, export_format: export_formats.ExportFormat) -> WrittenFile:
        """Temporary and final name of a graph's file in one format."""
        ending = export_format.ending
        # The temporary file is in the same directory, because a rename between file
        # systems is not atomic.  Its name has the same ending, by which the format is
        # recognised, and the number of this process, by which another process sees
        # whether the file is still needed.
        temporary = f".{self._name}.tmp-{os.getpid()}{ending}"
        return WrittenFile(
            export_format,
            files.join(self._directory, temporary),
            files.join(self._directory, self._name + ending),
        )

    def _remove_left_behind(self) -> None:
        """Removes the temporary files of the graph that killed processes left behind.

        Files of a process that still runs stay: it may be writing another graph of the
        same name.
        """
        left = re.compile(rf"\.{re.escape(self._name)}\.tmp-(\d+)[._]")
        for name in os.listdir(self._directory):
            match = left.match(name)
            if match and not os.path.exists(f"/proc/{match[1]}"):
                _remove_file_or_directory(files.join(self._directory, name))


def _remove_file_or_directory(path: str) -> None:
    """Removes a file of a graph or the directory of its SavedModel, if there."""
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        files.remove_if_there(path)
