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
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from afad_tfdata.common import eager, errors, files
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.freezing import (
    build_graph,
    corrected_source,
    export_formats,
    freeze_result,
    frozen_model_facts,
    graph_description,
    graph_files,
    model_source,
    output_nodes,
    quantization,
    verification,
    verification_images,
)
from afad_tfdata.freezing import config as freeze_config
from afad_tfdata.storage import remote_data_set

FreezeConfig = freeze_config.FreezeConfig
FreezeResult = freeze_result.FreezeResult

_log = logging.getLogger(__name__)


def freeze(config: FreezeConfig, model: keras.Model | None = None) -> FreezeResult:
    """Freezes a model, verifies the files, and gives them their names.

    Args:
      config: What to freeze, and how.
      model: A Keras model object, instead of ``config.model`` and ``config.run_dir``.

    Returns:
      The result: ``path`` is that of NAME.pb, and ``paths`` are all files that were
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
        corrections = _find_corrections(config, source, path)
        # From here on, the corrected model is the model: the graph is verified with it.
        source = corrected_source.with_corrections(source, corrections)
        fetches = output_nodes.names_by_label(config.output_nodes, source.labels)
        facts = frozen_model_facts.collect(
            source,
            config.records_dir,
            config.mean_json,
            config.class_names,
            config.input_range,
        )
        images = verification_images.choose_images(
            facts.records_dir, source.image_size, facts.stored.decode
        )
        cases = {
            "graph": verification_images.cases(
                source, images, facts.mean, facts.divisor
            )
        }
        if config.verify_only:
            return _verify_existing(path, source, cases["graph"], config.tolerance)
        if config.with_preprocessing:
            cases |= verification_images.all_preprocessing_cases(
                source, images, facts.mean, facts.divisor
            )
        calibration = None
        if config.tflite_float16 or config.tflite_int8:
            faces = quantization.choose_images(
                facts.records_dir,
                source.image_size,
                calibration_images=(
                    config.calibration_images if config.tflite_int8 else 0
                ),
                decode=facts.stored.decode,
            )
            calibration = quantization.normalized_images(
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
            verified = _write_and_verify(
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
                latency_ms=graph_description.latency_ms(
                    source, cases["graph"], verified.comparisons[0]
                ),
                rounding=verified.rounding,
                corrections=corrections,
            )
            # All files have passed.  The description gets its name last, so that a
            # reader that finds the description also finds every file named in it.
            paths = output.take_names(facts.mean, description)
    return FreezeResult(
        path=paths[0],
        max_difference=output.max_difference(verified.comparisons),
        allowed=verified.comparisons[0].allowed(config.tolerance),
        description=description,
        paths=tuple(paths),
    )


class _VerifiedGraph(NamedTuple):
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


def _freeze_remote(config: FreezeConfig, model: keras.Model | None) -> FreezeResult:
    """Freezes into a local directory and copies the verified files to a remote one."""
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
    """Loads the model that `freeze` got or that its config names."""
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


def _find_corrections(
    config: FreezeConfig, source: model_source.Source, path: str
) -> corrected_source.Corrections:
    """The corrections to freeze with, or with --verify_only those of the graph."""
    if config.verify_only:
        description = graph_description.load_description(path)
        return corrected_source.from_description(description)
    return corrected_source.find_corrections(
        source,
        flip_average=config.flip_average,
        gender_temperature=config.gender_temperature,
        age_correction=config.age_correction,
        age_spread=config.age_spread,
    )


def _write_and_verify(
    config: FreezeConfig,
    source: model_source.Source,
    fetches: Mapping[str, str],
    facts: frozen_model_facts.ModelFacts,
    cases: Mapping[str, list[verification.Case]],
    output: graph_files.VerifiedFiles,
    calibration: np.ndarray | None,
) -> _VerifiedGraph:
    """Builds and writes the graph that is frozen, and verifies every file.

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
        failure = output.failure(comparisons, config.tolerance, rounding)
        if failure and not rounding:
            # Measured only after a failure, as it takes longer than the verification.
            rounding = verification_images.rounding_on_random_input(
                source, cases["graph"]
            )
            failure = output.failure(comparisons, config.tolerance, rounding)
        if not failure:
            output.refuse_losses(
                comparisons,
                quantization.QuantizationLimits(
                    config.max_age_loss, config.max_gender_loss
                ),
            )
            return _VerifiedGraph(graph, comparisons, rounding)
    own = verification_images.own_difference(source, cases["graph"])
    raise errors.DataError(
        f"the frozen graph does not equal its model: {failure}; nothing was written"
        " (--tolerance scales what is allowed; by rounding alone the model differs from"
        " itself between batch sizes by"
        f" {', '.join(f'{v:.1g} in {k}' for k, v in own.items())})"
    )


def _verify_existing(
    path: str,
    source: model_source.Source,
    cases: Sequence[verification.Case],
    tolerance: float,
) -> FreezeResult:
    """Does ``--verify_only``: compares an existing NAME.pb, and freezes nothing."""
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
        failure = comparison.failure(
            tolerance, verification_images.rounding_on_random_input(source, cases)
        )
    if failure:
        raise errors.DataError(f"{path} does not equal the model: {failure}")
    return FreezeResult(
        path=path,
        max_difference=comparison.max_difference,
        allowed=comparison.allowed(tolerance),
        description=description,
        paths=(path,),
    )
