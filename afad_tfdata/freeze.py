"""Freezing: a trained model into a verified graph of constants.

NAME.pb holds no variable and no function, takes batches of any size, and loads in
TensorFlow 1.15 as it does today.  It takes its name only after a fresh process has run
it and found the model's outputs::

    result = freeze.freeze(freeze.FreezeConfig(run_dir="runs/first", output_dir="out"))
    result.path, result.max_difference
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors, files
from afad_tfdata.common.lazy import tf
from afad_tfdata.freezing import config as freeze_config
from afad_tfdata.freezing import (
    constant_folding,
    exports,
    graph_description,
    graphdef,
    model_source,
    preprocessing_graph,
    variables_to_constants,
    verification,
    verification_images,
)
from afad_tfdata.images import preprocess
from afad_tfdata.storage import remote, schema

FreezeConfig = freeze_config.FreezeConfig

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Result:
    """What was written.

    Attributes:
      path: NAME.pb.
      max_difference: Largest difference to the model by label, over all forms.
      allowed: What would have passed, by label.
      description: The content of NAME.json.
      paths: Every file and directory that was written, NAME.pb first.
    """

    path: str
    max_difference: dict[str, float]
    allowed: dict[str, float]
    description: dict[str, Any]
    paths: tuple[str, ...]

    def summary(self) -> str:
        """For people."""
        about = self.description["graph"]
        text = [
            f"{self.path}: {about['bytes'] / 1e6:.1f} MB, {about['nodes']} nodes,"
            f" {about['flops_per_image'] / 1e9:.2f} GFLOPs an image"
        ]
        for label, value in self.max_difference.items():
            text.append(
                f"{label}: differs from the model by {value:.2g} at most"
                f" ({self.allowed[label]:.2g} is allowed)"
            )
        for label, value in self.description["parity"].get("rounding", {}).items():
            text.append(
                f"{label}: on random input the model differs from itself by"
                f" {value:.2g} by rounding alone; there, and not on images,"
                f" {verification.ROUNDING_FACTOR} times that was allowed"
            )
        for name, times in self.description["latency_ms"].items():
            beside = ", ".join(f"{k} {v:.1f} ms" for k, v in times.items())
            text.append(f"{name}: {beside}")
        if len(self.paths) > 1:
            text.append(f"with it: {', '.join(self.paths[1:])}")
        return "\n".join(text)


def freeze(config: FreezeConfig, model: Any = None) -> Result:
    """Freezes a model, verifies the file, and gives it its name.

    Args:
      config: What and how.
      model: A Keras model object, instead of ``config.model`` and ``config.run_dir``.

    Raises:
      UsageError: The model cannot be loaded or expressed, or a flag does not fit it.
      DataError: The graph's outputs differ from the model's; no file is left.
    """
    if files.is_remote(config.output_dir) and not config.verify_only:
        return _freeze_remote(config, model)
    # On the CPU: accelerators round products to fewer digits than the promise has.
    with tf.device("CPU:0"):
        source = _source(config, model)
        nodes = _nodes(config, source)
        facts = graph_description.facts_of(source, config.records_dir, config.mean_json)
        images = verification_images.choose(facts.records_dir, source.image_size)
        job = _Job(config, source, nodes, facts, images)
        if config.verify_only:
            return job.verify_only()
        if config.with_preprocessing and facts.mean is None:
            raise errors.UsageError(
                "--with_preprocessing needs the mean that the model was trained with,"
                " and the model does not carry it: name --records_dir or --mean_json"
            )
        files.make_dirs(config.output_dir)
        try:
            return job.write()
        finally:
            job.clean()


def _freeze_remote(config: FreezeConfig, model: Any) -> Result:
    """Writes and verifies beside, then copies, the description last."""
    with tempfile.TemporaryDirectory(prefix="afad-freeze-") as directory:
        local = dataclasses.replace(config, output_dir=directory)
        result = freeze(local, model)
        names = [os.path.relpath(path, directory) for path in result.paths]
        for name in names:  # NAME.json is the last of them.
            remote.copy(os.path.join(directory, name), config.output_dir, name)
    paths = tuple(files.join(config.output_dir, name) for name in names)
    return dataclasses.replace(result, path=paths[0], paths=paths)


def build_graph(
    source: model_source.Source,
    nodes: Mapping[str, str],
    *,
    input_node: str = "root_input",
    fold: bool = True,
    tf1_compatible: bool = True,
) -> Any:
    """The frozen GraphDef of a source.

    Args:
      source: From `model_source`.
      nodes: Names of the outputs by label.
      input_node: Name of the input.
      fold: Fold constants and batch normalisation.
      tf1_compatible: Only what TensorFlow 1.15 knows.

    Raises:
      UsageError: It cannot be expressed.
    """
    size = source.image_size
    spec = tf.TensorSpec([None, size, size, 3], tf.float32, name="images")

    @tf.function(autograph=False)
    def function(images: Any) -> list[Any]:
        outputs = source.call(images)
        return [outputs[label] for label in source.labels]

    try:
        concrete = function.get_concrete_function(spec)
    except (ValueError, TypeError, tf.errors.OpError) as error:
        raise errors.UsageError(
            "the model cannot be traced for batches of any size"
            f" ({errors.one_line(error)}): it may hold code that depends on the batch"
        ) from error
    graph, (feed,), fetches = variables_to_constants.from_function(concrete)
    graph = graphdef.without_identities(graph, [*fetches, feed])
    if fold:
        graph = constant_folding.constants(graph, fetches)
        graph = constant_folding.normalization(graph, fetches)
    wanted = [nodes[label] for label in source.labels]
    names = {**dict(zip(fetches, wanted, strict=True)), feed: input_node}
    graph = graphdef.renamed(graph, names)
    _refuse_half(graph, source.layers)
    if tf1_compatible:
        return graphdef.for_tf1(graph, layers=source.layers)
    return graphdef.without_private(graph)


@dataclasses.dataclass(frozen=True)
class _Form:
    """One file to be written.

    Attributes:
      kind: ``graph``, ``bytes``, ``pixels``, ``saved_model``, ``tflite`` or ``onnx``.
      ending: Of its name, behind NAME.
      write: Writes it, given the plain graph and the path.
      cases: What it must do.
    """

    kind: str
    ending: str
    write: Callable[[Any, str], None]
    cases: Sequence[verification.Case]


class _Job:
    """Writes every form under a temporary name, verifies, renames.

    Args:
      config: The flags.
      source: The model.
      nodes: Names of the outputs by label.
      facts: What is known beside it.
      images: To verify on; the first `verification_images.BATCHES` of them are used.
    """

    def __init__(
        self,
        config: FreezeConfig,
        source: model_source.Source,
        nodes: dict[str, str],
        facts: graph_description.Facts,
        images: verification_images.Images,
    ) -> None:
        self._config, self._source, self._nodes = config, source, nodes
        self._facts, self._images = facts, images
        self._name = config.output_name or source.name or "model"
        self._cases = verification_images.cases(source, images, facts.mean)
        # Measured where it is needed: where random input moved by more than promised.
        self._rounding: dict[str, float] = {}

    def write(self) -> Result:
        """Everything that the flags ask for."""
        self._remove_left_behind()
        forms = self._forms()
        graph, reports = self._verified(forms)
        config, source = self._config, self._source
        plain = reports[0]
        written = [
            graph_description.Written(
                form.kind, self._temporary(form), self._path(form), r
            )
            for form, r in zip(forms, reports, strict=True)
        ]
        size = source.image_size
        description = graph_description.describe(
            source,
            self._facts,
            feed=config.input_node,
            fetches=self._nodes,
            written=written,
            tolerance=config.tolerance,
            images=self._images.origin,
            graph={
                "nodes": len(graph.node),
                "flops_per_image": constant_folding.flops(
                    graph, config.input_node, (size, size, 3)
                ),
                "tf1_compatible": config.tf1_compatible,
            },
            latency=self._latency(plain),
            rounding=self._rounding,
        )
        return Result(
            path=self._path(forms[0]),
            max_difference={
                label: max(r.max_difference[label] for r in reports)
                for label in source.labels
            },
            allowed=plain.allowed(config.tolerance),
            description=description,
            paths=tuple(self._take_names(written, description)),
        )

    def verify_only(self) -> Result:
        """Compares the file that is there."""
        path = self._path(self._forms()[0])
        description = graph_description.load_description(path)
        fetches = {f["label"]: f["name"] for f in description["fetches"]}
        if set(fetches) != set(self._nodes):
            raise errors.UsageError(
                f"{path} gives {', '.join(fetches)}, and the model gives"
                f" {', '.join(self._nodes)}: name the model that it was made from"
            )
        feed = description["feeds"][0]["name"]
        (report,) = verification.check(
            [verification.Job(path, feed, fetches, self._cases)]
        )
        failure = report.failure(self._config.tolerance)
        if failure:
            own = self._own_difference(random=True)
            failure = report.failure(self._config.tolerance, own)
        if failure:
            raise errors.DataError(f"{path} does not equal the model: {failure}")
        return Result(
            path=path,
            max_difference=report.max_difference,
            allowed=report.allowed(self._config.tolerance),
            description=description,
            paths=(path,),
        )

    def clean(self) -> None:
        """Removes what has not got its name."""
        for form in self._forms():
            _remove(self._temporary(form))

    def _forms(self) -> list[_Form]:
        config, nodes, feed = self._config, self._nodes, self._config.input_node
        forms = [_Form("graph", ".pb", _write_graph, self._cases)]
        for kind in preprocessing_graph.FEEDS if config.with_preprocessing else ():
            forms.append(self._image_form(kind))
        for kind, ending, write in (
            ("saved_model", "_saved_model", exports.saved_model),
            ("tflite", ".tflite", exports.tflite),
            ("onnx", ".onnx", exports.onnx),
        ):
            if getattr(config, kind):
                forms.append(
                    _Form(
                        kind,
                        ending,
                        functools.partial(write, feed=feed, fetches=nodes),
                        self._cases,
                    )
                )
        return forms

    def _image_form(self, kind: str) -> _Form:
        config, size = self._config, self._source.image_size
        mean: Any = self._facts.mean  # Checked by now.

        def write(graph: Any, path: str) -> None:
            whole = preprocessing_graph.build(
                graph,
                kind,
                feed=config.input_node,
                fetches=list(self._nodes.values()),
                size=size,
                mean=mean,
            )
            if config.tf1_compatible:
                whole = graphdef.for_tf1(whole)
            _write_graph(whole, path)

        cases = []
        for batch in verification_images.BATCHES:
            value: Any
            if kind == "bytes":
                value = list(self._images.encoded[:batch])
                seen = [preprocessing_graph.reference(e, size, mean) for e in value]
            else:
                # All of one size, and of another one than the network's.
                value = self._images.pixels_of_size(size * 4 // 3, batch)
                seen = preprocess.normalize(preprocess.resize(value, size), mean)
            expected = verification_images.expected(self._source, np.array(seen))
            cases.append(
                verification.Case(f"{kind}, batch of {batch}", value, expected)
            )
        return _Form(kind, f"_{kind}.pb", write, cases)

    def _path(self, form: _Form) -> str:
        return files.join(self._config.output_dir, self._name + form.ending)

    def _temporary(self, form: _Form) -> str:
        """A name in the same directory, with the same ending."""
        name = f".{self._name}.tmp-{os.getpid()}{form.ending}"
        return files.join(self._config.output_dir, name)

    def _remove_left_behind(self) -> None:
        """Removes the temporary files of processes that were killed."""
        left = re.compile(rf"\.{re.escape(self._name)}\.tmp-(\d+)[._]")
        for name in os.listdir(self._config.output_dir):
            match = left.match(name)
            if match and not os.path.exists(f"/proc/{match[1]}"):
                _remove(files.join(self._config.output_dir, name))

    def _verified(
        self, forms: Sequence[_Form]
    ) -> tuple[Any, list[verification.Report]]:
        """Writes all; once more without folding where that moved the values."""
        config = self._config
        failure = ""
        for fold in (True, False) if config.fold else (False,):
            if failure:
                _log.info("writing again without folding: %s", failure)
            graph = build_graph(
                self._source,
                self._nodes,
                input_node=config.input_node,
                fold=fold,
                tf1_compatible=config.tf1_compatible,
            )
            jobs = []
            for form in forms:
                path = self._temporary(form)
                form.write(graph, path)
                names = exports.names(form.kind, config.input_node, self._nodes)
                jobs.append(verification.Job(path, *names, form.cases))
            reports = verification.check(jobs)
            failure = self._failure(forms, reports)
            if failure:
                self._rounding = self._rounding or self._own_difference(random=True)
                failure = self._failure(forms, reports)
            if not failure:
                return graph, reports
        own = self._own_difference()
        raise errors.DataError(
            f"the frozen graph does not equal its model: {failure}; nothing was"
            " written (--tolerance scales what is allowed; by rounding alone the model"
            " differs from itself between batch sizes by"
            f" {', '.join(f'{v:.1g} in {k}' for k, v in own.items())})"
        )

    def _failure(
        self, forms: Sequence[_Form], reports: Sequence[verification.Report]
    ) -> str:
        """The first difference that is too large; empty if there is none."""
        for form, report in zip(forms, reports, strict=True):
            text = report.failure(self._config.tolerance, self._rounding)
            if text:
                return f"{os.path.basename(self._path(form))}: {text}"
        return ""

    def _own_difference(self, random: bool = False) -> dict[str, float]:
        """Of the model from itself, on all cases or on random input only."""
        cases = [c for c in self._cases if not (random and c.is_image)]
        return verification_images.own_difference(self._source, cases)

    def _latency(self, report: verification.Report) -> dict[str, dict[str, float]]:
        """Milliseconds by batch, of the graph and of the model's own predict."""
        result = {}
        for case in self._cases[: len(verification_images.BATCHES)]:
            times = {"graph": round(report.latency_ms[case.name], 3)}
            if self._source.predict is not None:
                call = functools.partial(self._source.predict, case.inputs)
                times["model"] = round(verification.median_ms(call), 3)
            result[f"batch of {len(case.inputs)}"] = times
        return result

    def _take_names(
        self,
        written: Sequence[graph_description.Written],
        description: Mapping[str, Any],
    ) -> list[str]:
        """Renames; the description last, so that what it names is there."""
        about = files.join(self._config.output_dir, f"{self._name}.json")
        files.remove_if_there(about)
        for one in written:
            if os.path.isdir(one.path):
                shutil.rmtree(one.path)
            os.replace(one.temporary, one.path)
        files.fsync_dir(self._config.output_dir)
        paths = [one.path for one in written]
        if self._facts.mean is not None:
            mean = files.join(self._config.output_dir, schema.MEAN_NAME)
            files.write_json(mean, dict(zip("RGB", self._facts.mean, strict=True)))
            paths.append(mean)
        files.write_json(about, files.seal(description))
        return [*paths, about]


def _write_graph(graph: Any, path: str) -> None:
    files.write_atomic(path, graphdef.serialized(graph))


def _source(config: FreezeConfig, model: Any) -> model_source.Source:
    if model is not None:
        return model_source.from_model(
            model, outputs=config.outputs, image_size=config.image_size
        )
    if not (config.model or config.run_dir):
        raise errors.UsageError(
            "--model or --run_dir is missing: name what is to be frozen"
        )
    return model_source.open_source(
        config.model or config.run_dir,
        which=config.which,
        epoch=config.epoch,
        outputs=config.outputs,
        image_size=config.image_size,
        unsafe_load=config.unsafe_load,
    )


def _nodes(config: FreezeConfig, source: model_source.Source) -> dict[str, str]:
    default = freeze_config.DEFAULT_NODES
    names = config.output_nodes or [default[label] for label in source.labels]
    if len(names) != len(source.labels):
        raise errors.UsageError(
            f"--output_nodes names {len(names)} nodes, and the model has"
            f" {len(source.labels)} outputs: {', '.join(source.labels)}"
        )
    return dict(zip(source.labels, names, strict=True))


def _refuse_half(graph: Any, layers: Sequence[str]) -> None:
    half = (tf.float16.as_datatype_enum, tf.bfloat16.as_datatype_enum)
    for node in graph.node:
        if any(attr.type in half for attr in node.attr.values()):
            layer = graphdef.layer_of(node.name, layers)
            raise errors.UsageError(
                f"{'layer ' + layer if layer else 'node ' + node.name} computes in half"
                " precision, and the frozen graph is float32: freeze the .keras file,"
                " which can be built again in float32, or train without float16"
            )


def _remove(path: str) -> None:
    """Removes a file or a directory that may be there."""
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        files.remove_if_there(path)
