"""Freezing: turns a trained model into a verified graph of constants.

NAME.pb contains no variable and no function, takes batches of any size, and loads in
TensorFlow 1.15 as well as in current versions.  The file gets its name only after a
fresh process has run the graph and obtained the model's outputs::

    result = freeze.freeze(freeze.FreezeConfig(run_dir="runs/first", output_dir="out"))
    result.path, result.max_difference

Only this module reads a `FreezeConfig`; the modules in ``freezing/`` get from it only
the values that they need.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from afad_tfdata.common import eager, errors, files
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.freezing import (
    build_graph,
    corrected_source,
    export_formats,
    facts_of_source,
    graph_description,
    graph_files,
    model_source,
    preprocessing_graph,
    quantization,
    verification,
    verification_images,
)
from afad_tfdata.freezing import config as freeze_config
from afad_tfdata.storage import remote_data_set

FreezeConfig = freeze_config.FreezeConfig

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class FreezeResult:
    """What `freeze` wrote.

    Attributes:
      path: NAME.pb.
      max_difference: Largest difference from the model over all formats that must equal
        it, by label.
      allowed: The largest difference with which NAME.pb would still pass, by label.
      description: The content of NAME.json.
      paths: Every file and directory that was written, NAME.pb first.
    """

    path: str
    max_difference: dict[str, float]
    allowed: dict[str, float]
    description: dict[str, Any]
    paths: tuple[str, ...]

    def summary(self) -> str:
        """The result in a few lines, for people."""
        about = self.description["graph"]
        text = [
            f"{self.path}: {about['bytes'] / 1e6:.1f} MB, {about['nodes']} nodes,"
            f" {about['flops_per_image'] / 1e9:.2f} GFLOPs per image"
        ]
        for label, value in self.max_difference.items():
            text.append(
                f"{label}: differs from the model by at most {value:.2g}"
                f" ({self.allowed[label]:.2g} is allowed)"
            )
        for label, value in self.description["parity"].get("rounding", {}).items():
            text.append(
                f"{label}: on random input the model differs from itself by"
                f" {value:.2g} through rounding alone, so"
                f" {verification.ROUNDING_FACTOR} times that was allowed there"
                " (not on images)"
            )
        text += _correction_lines(self.description)
        for name, times in self.description["latency_ms"].items():
            shown = ", ".join(f"{k} {v:.1f} ms" for k, v in times.items())
            text.append(f"{name}: {shown}")
        text += _loss_lines(self.description)
        if len(self.paths) > 1:
            text.append(f"also written: {', '.join(self.paths[1:])}")
        return "\n".join(text)


def _loss_lines(description: Mapping[str, Any]) -> list[str]:
    """What the files with fewer bits lose, for people."""
    lines = []
    for about in description["others"].values():
        if "quantization" not in about:
            continue
        means = about["mean_difference"]
        parts = [f"{about['bytes'] / 1e6:.1f} MB"]
        if "age" in means:
            parts.append(f"ages differ by {means['age']:.2g} years on average")
        if "gender" in means:
            parts.append(f"probabilities by {means['gender']:.2g}")
            parts.append(f"{about['equal_genders']:.1%} of the genders are equal")
        parts += [f"{k} {v:.1f} ms" for k, v in about["latency_ms"].items()]
        lines.append(f"{about['file']}: {', '.join(parts)}")
    return lines


def _correction_lines(description: Mapping[str, Any]) -> list[str]:
    """What the graph does to the outputs of its model, for people."""
    found = [name for name, value in description["corrections"].items() if value]
    lines = [f"corrections in the graph: {', '.join(found)}"] if found else []
    if interval := description["age_interval"]:
        labels = {fetch["label"] for fetch in description["fetches"]}
        width = f"{interval['half_width']:.1f} years"
        if corrected_source.SPREAD in labels and "scaled" in interval:
            width = f"{interval['scaled']['half_width']:.2f} times the spread"
        share = f"{interval['coverage']:.0%}"
        lines.append(f"age intervals of {share}: {width} to each side")
    return lines


def freeze(config: FreezeConfig, model: keras.Model | None = None) -> FreezeResult:
    """Freezes a model, verifies the files, and gives them their names.

    Args:
      config: What to freeze, and how.
      model: A Keras model object, instead of ``config.model`` and ``config.run_dir``.

    Returns:
      Its ``path`` is that of NAME.pb, and its ``paths`` are all files that were
      written.  ``max_difference`` is the largest difference from the model, and
      ``allowed`` the largest difference that passes, both by label.  ``description``
      is the content of NAME.json.

    Raises:
      UsageError: The model cannot be loaded or expressed as a graph of constants, or a
        flag does not fit it.
      DataError: The graph's outputs differ from the model's.

    On every error the new files are removed, and files of an earlier run stay.
    """
    if files.is_remote(config.output_dir) and not config.verify_only:
        return _freeze_remote(config, model)
    # Everything runs on the CPU, because accelerators round products to fewer digits
    # than the tolerance allows.
    with tf.device("CPU:0"):
        # Loading comes first: every other check needs the model's outputs and size.
        source = _load_model(config, model)
        name = config.output_name or source.name or "model"
        path = files.join(config.output_dir, f"{name}.pb")
        corrections = _corrections(config, source, path)
        # From here on, the corrected model is the model: the graph is verified with it.
        source = corrected_source.apply(source, corrections)
        fetches = _fetches(config.output_nodes, source.labels)
        facts = facts_of_source.collect(
            source,
            config.records_dir,
            config.mean_json,
            config.class_names,
            config.input_range,
        )
        images = verification_images.choose(
            facts.records_dir, source.image_size, facts.stored.decode
        )
        cases = {
            "graph": verification_images.cases(
                source, images, facts.mean, facts.divisor
            )
        }
        if config.verify_only:
            return _compare_existing(path, source, cases["graph"], config.tolerance)
        if config.with_preprocessing:
            cases |= _preprocessing_cases(source, images, facts)
        calibration = None
        if config.tflite_float16 or config.tflite_int8:
            faces = _quantization_images(config, source, facts)
            calibration = quantization.normalized(
                faces.calibration, facts.mean, facts.divisor
            )
            losses = quantization.cases(source, faces, facts.mean, facts.divisor)
            cases |= {"tflite_float16": losses, "tflite_int8": losses}
        # This follows the checks, so that a refused call leaves no directory behind.
        files.make_dirs(config.output_dir)
        # When the block ends, files that do not have their final names are removed.
        with graph_files.VerifiedFiles(config.output_dir, name) as output:
            # The model is traced, variables become constants, constants are folded, and
            # the inputs and outputs are named.  Then every format is written under a
            # temporary name, and one fresh process verifies all of them.
            verified = _write_verified(
                config, source, fetches, facts, cases, output, calibration
            )
            description = graph_description.describe(
                source,
                facts,
                verified.graph,
                output.written,
                verified.comparisons,
                tolerance=config.tolerance,
                images=images.origin,
                latency_ms=_latency(source, cases["graph"], verified.comparisons[0]),
                rounding=verified.rounding,
                corrections=corrections,
            )
            # All files have passed.  The description gets its name last, so that a
            # reader that finds the description also finds every file named in it.
            paths = output.take_names(facts.mean, description)
    return FreezeResult(
        path=paths[0],
        max_difference=verified.max_difference(output.written),
        allowed=verified.comparisons[0].allowed(config.tolerance),
        description=description,
        paths=tuple(paths),
    )


class _Verified(NamedTuple):
    """A graph whose files have passed.

    Attributes:
      graph: The graph.
      comparisons: One for each file, NAME.pb first.
      rounding: How far the model differs from itself on random input, by label; empty
        if no difference had to be allowed for rounding.
    """

    graph: export_formats.FrozenGraph
    comparisons: list[verification.Comparison]
    rounding: dict[str, float]

    def max_difference(
        self, written: Sequence[graph_files.WrittenFile]
    ) -> dict[str, float]:
        """The largest difference over the files that must equal the model, by label."""
        exact = [
            comparison.max_difference
            for file, comparison in zip(written, self.comparisons, strict=True)
            if not file.export_format.quantization
        ]
        return {
            label: max(by_label[label] for by_label in exact)
            for label in self.graph.fetches
        }


def _freeze_remote(config: FreezeConfig, model: keras.Model | None) -> FreezeResult:
    """Freezes into a local directory and copies the verified files."""
    # Writing is safe because finished files are renamed, and remote stores cannot do
    # that.
    with tempfile.TemporaryDirectory(prefix="afad-freeze-") as directory:
        local = dataclasses.replace(config, output_dir=directory)
        result = freeze(local, model)
        names = [os.path.relpath(path, directory) for path in result.paths]
        # The order matters: NAME.json is the last of them.
        for name in names:
            remote_data_set.copy(os.path.join(directory, name), config.output_dir, name)
    paths = tuple(files.join(config.output_dir, name) for name in names)
    return dataclasses.replace(result, path=paths[0], paths=paths)


def _load_model(config: FreezeConfig, model: keras.Model | None) -> model_source.Source:
    """Loads the model to be frozen."""
    eager.require(outside_of_scopes=False)
    if model is not None:
        return model_source.from_model(
            model, outputs=config.outputs, image_size=config.image_size
        )
    if not (config.model or config.run_dir):
        raise errors.UsageError(
            "--model or --run_dir is missing: name the model to freeze"
        )
    return model_source.open_source(
        config.model or config.run_dir,
        which=config.which,
        epoch=config.epoch,
        outputs=config.outputs,
        image_size=config.image_size,
        unsafe_load=config.unsafe_load,
    )


def _corrections(
    config: FreezeConfig, source: model_source.Source, path: str
) -> corrected_source.Corrections:
    """The corrections of the flags, or those of the graph that is to be compared."""
    if config.verify_only:
        description = graph_description.load_description(path)
        return corrected_source.of_description(description)
    return corrected_source.find(
        source,
        flip_average=config.flip_average,
        gender_temperature=config.gender_temperature,
        age_correction=config.age_correction,
        age_spread=config.age_spread,
    )


def _fetches(names: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    """Names of the outputs in the graph, by label."""
    spread = [freeze_config.SPREAD_NODE] * (corrected_source.SPREAD in labels)
    own = labels[: len(labels) - len(spread)]
    names = names or [freeze_config.DEFAULT_NODES[label] for label in own]
    if len(names) == len(own):
        names = [*names, *spread]
    if len(names) != len(labels):
        raise errors.UsageError(
            f"--output_nodes names {len(names)} nodes, and the model has"
            f" {len(labels)} outputs: {', '.join(labels)}"
        )
    return dict(zip(labels, names, strict=True))


def _preprocessing_cases(
    source: model_source.Source,
    images: verification_images.VerificationImages,
    facts: facts_of_source.ModelFacts,
) -> dict[str, list[verification.Case]]:
    """What the graphs with preprocessing are verified on, by format."""
    mean = facts.mean
    if mean is None:
        raise errors.UsageError(
            "--with_preprocessing needs the mean that the model was trained with, and"
            " the model file does not contain it: name --records_dir or --mean_json"
        )
    return {
        kind: verification_images.preprocessing_cases(
            source, images, mean, kind, facts.divisor
        )
        for kind in preprocessing_graph.INPUTS
    }


def _quantization_images(
    config: FreezeConfig, source: model_source.Source, facts: facts_of_source.ModelFacts
) -> quantization.QuantizationImages:
    """The faces that files with fewer bits are calibrated on and compared with."""
    return quantization.choose(
        facts.records_dir,
        source.image_size,
        calibration_images=config.calibration_images if config.tflite_int8 else 0,
        decode=facts.stored.decode,
    )


def _write_verified(
    config: FreezeConfig,
    source: model_source.Source,
    fetches: Mapping[str, str],
    facts: facts_of_source.ModelFacts,
    cases: Mapping[str, list[verification.Case]],
    output: graph_files.VerifiedFiles,
    calibration: np.ndarray | None,
) -> _Verified:
    """Builds and writes the graph, and verifies every file.

    Constant folding rounds weights once more.  If that changes the outputs too much,
    the graph is written again without constant folding.

    Raises:
      DataError: A file's outputs differ from the model's.
    """
    formats = [
        export_format
        for export_format in export_formats.FORMATS.values()
        if not export_format.flag or getattr(config, export_format.flag)
    ]
    failure, rounding = "", dict[str, float]()
    for fold_constants in (True, False) if config.fold else (False,):
        if failure:
            _log.info("writing again without constant folding: %s", failure)
        graph = export_formats.FrozenGraph(
            build_graph.build(
                source,
                fetches,
                feed=config.input_node,
                fold_constants=fold_constants,
                tf1_compatible=config.tf1_compatible,
            ),
            config.input_node,
            fetches,
            source.image_size,
            facts.mean,
            config.tf1_compatible,
            facts.divisor,
            facts.stored,
            calibration,
            config.int8_inputs,
        )
        output.write(graph, formats)
        comparisons = verification.check(output.candidates(graph, cases))
        failure = _failure(output, comparisons, config.tolerance, rounding)
        if failure and not rounding:
            # Measured only after a failure, as it takes longer than the verification.
            rounding = _own_rounding(source, cases["graph"])
            failure = _failure(output, comparisons, config.tolerance, rounding)
        if not failure:
            _check_losses(config, output, comparisons)
            return _Verified(graph, comparisons, rounding)
    own = verification_images.own_difference(source, cases["graph"])
    raise errors.DataError(
        f"the frozen graph does not equal its model: {failure}; nothing was written"
        " (--tolerance scales what is allowed; by rounding alone the model differs from"
        " itself between batch sizes by"
        f" {', '.join(f'{v:.1g} in {k}' for k, v in own.items())})"
    )


def _failure(
    output: graph_files.VerifiedFiles,
    comparisons: Sequence[verification.Comparison],
    tolerance: float,
    rounding: Mapping[str, float],
) -> str:
    """The first difference that is too large; empty if there is none."""
    for file, comparison in zip(output.written, comparisons, strict=True):
        if file.export_format.quantization:
            continue  # It never equals the model; `_check_losses` judges it.
        text = comparison.failure(tolerance, rounding)
        if text:
            return f"{os.path.basename(file.path)}: {text}"
    return ""


def _check_losses(
    config: freeze_config.FreezeConfig,
    output: graph_files.VerifiedFiles,
    comparisons: Sequence[verification.Comparison],
) -> None:
    """Refuses a file with fewer bits that loses too much.

    Raises:
      DataError: It does.
    """
    limits = quantization.QuantizationLimits(
        config.max_age_loss, config.max_gender_loss
    )
    for file, comparison in zip(output.written, comparisons, strict=True):
        failure = file.export_format.quantization and limits.failure(comparison)
        if failure:
            raise errors.DataError(
                f"{os.path.basename(file.path)} loses too much: {failure}; nothing was"
                f" written (leave out --{file.export_format.flag}, or allow more)"
            )


def _own_rounding(
    source: model_source.Source, cases: Sequence[verification.Case]
) -> dict[str, float]:
    """How far the model differs from itself on random input, by label."""
    random = [case for case in cases if not case.is_image]
    return verification_images.own_difference(source, random)


def _compare_existing(
    path: str,
    source: model_source.Source,
    cases: Sequence[verification.Case],
    tolerance: float,
) -> FreezeResult:
    """Does ``--verify_only``: compares an existing NAME.pb, and writes nothing."""
    description = graph_description.load_description(path)
    fetches = {fetch["label"]: fetch["name"] for fetch in description["fetches"]}
    if set(fetches) != set(source.labels):
        raise errors.UsageError(
            f"{path} returns {', '.join(fetches)}, and the model returns"
            f" {', '.join(source.labels)}: name the model that the graph was made from"
        )
    feed = description["feeds"][0]["name"]
    candidate = verification.Candidate(path, feed, fetches, cases)
    (comparison,) = verification.check([candidate])
    failure = comparison.failure(tolerance)
    if failure:
        failure = comparison.failure(tolerance, _own_rounding(source, cases))
    if failure:
        raise errors.DataError(f"{path} does not equal the model: {failure}")
    return FreezeResult(
        path=path,
        max_difference=comparison.max_difference,
        allowed=comparison.allowed(tolerance),
        description=description,
        paths=(path,),
    )


def _latency(
    source: model_source.Source,
    cases: Sequence[verification.Case],
    comparison: verification.Comparison,
) -> dict[str, dict[str, float]]:
    """Milliseconds by batch, of NAME.pb and of the model's own ``predict``."""
    result = {}
    # Only images are timed: random input in the same batch sizes would take as long.
    for case in cases[: len(verification_images.BATCH_SIZES)]:
        batch = np.asarray(case.inputs)
        times = {"graph": round(comparison.latency_ms[case.name], 3)}
        if source.predict is not None:
            call = functools.partial(source.predict, batch)
            times["model"] = round(verification.median_ms(call), 3)
        result[f"batch of {len(batch)}"] = times
    return result
