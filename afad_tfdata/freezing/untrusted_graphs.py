"""Graphs of unknown origin: GraphDefs and SavedModels are checked before they load.

::

    untrusted_graphs.refuse_effects(untrusted_graphs.all_nodes(graph_def), "face.pb")
    module = untrusted_graphs.load_saved_model("saved")

``tf.saved_model.load`` runs initializers and restore functions of the file, with all
the rights of this process.  What they do is therefore checked in the protocol buffer,
before TensorFlow sees it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from afad_tfdata.common import errors, files
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import graphdef

# Operations that read or write files, or call Python.  A graph of a face network needs
# none of them, and a graph may come from anybody.
_SIDE_EFFECT_OPS = frozenset(
    (
        *("ReadFile", "WriteFile", "MatchingFiles", "WholeFileReader"),
        *("Save", "SaveV2", "SaveSlices", "MergeV2Checkpoints"),
        *("Restore", "RestoreV2", "RestoreSlice"),
        *("PyFunc", "PyFuncStateless", "EagerPyFunc"),
    )
)

# Collections and a signature that name the operations which loading runs, in files of
# TensorFlow 1.
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")
_INIT_SIGNATURE = "__saved_model_init_op"
_RESTORE_OPS = frozenset(("Restore", "RestoreV2", "RestoreSlice"))
_SAVE_OPS = frozenset(("Save", "SaveV2", "SaveSlices", "MergeV2Checkpoints"))


def load_saved_model(path: str) -> Any:
    """Loads a SavedModel of unknown origin, if it only computes.

    Args:
      path: Its directory.

    Returns:
      What ``tf.saved_model.load`` returns.

    Raises:
      UsageError: It cannot be loaded, or has an operation that reads or writes files
        or runs Python.
    """
    for meta_graph in _meta_graphs(path):
        _refuse_effects_in_saved_model(meta_graph, path)
    try:
        return tf.saved_model.load(path)
    except Exception as error:  # A damaged file makes TensorFlow raise anything.
        raise errors.UsageError(
            f"{path} cannot be loaded as a SavedModel: {errors.one_line(error)}"
        ) from error


def refuse_effects(
    nodes: Iterable[tf.compat.v1.NodeDef],
    path: str,
    *,
    allowed: Collection[str] = (),
) -> None:
    """Refuses nodes that do more than compute: a graph may come from anybody.

    Args:
      nodes: The nodes of a graph and of its functions (`all_nodes`).
      path: The graph's file, for the message.
      allowed: Operations with effects that are accepted here.

    Raises:
      UsageError: An operation reads or writes files, or runs Python.
    """
    for node in nodes:
        if node.op in _SIDE_EFFECT_OPS and node.op not in allowed:
            raise errors.UsageError(
                f"{path} has the operation {node.name} of type {node.op}, which reaches"
                " outside the graph: it is not loaded"
            )


def all_nodes(graph: tf.compat.v1.GraphDef) -> list[tf.compat.v1.NodeDef]:
    """The nodes of a graph that is to be checked, and of its functions."""
    return [*graph.node, *(n for f in graph.library.function for n in f.node_def)]


def _meta_graphs(path: str) -> Iterable[tf.compat.v1.MetaGraphDef]:
    """The graphs in the file of a SavedModel, which are to be checked."""
    # The only protocol buffer here that has no name under tf.
    from tensorflow.core.protobuf import saved_model_pb2

    saved_model = saved_model_pb2.SavedModel()
    try:
        saved_model.ParseFromString(
            files.read_bytes(os.path.join(path, "saved_model.pb"))
        )
    except Exception as error:  # protobuf's DecodeError, or an OSError.
        raise errors.UsageError(
            f"{path} cannot be loaded as a SavedModel: {errors.one_line(error)}"
        ) from error
    return saved_model.meta_graphs


def _refuse_effects_in_saved_model(
    meta_graph: tf.compat.v1.MetaGraphDef, path: str
) -> None:
    """Refuses a SavedModel whose operations do more than compute.

    Every SavedModel has operations that restore and save its variables.  They are
    refused if loading would run them for another purpose: in functions of objects (such
    as a resource's initializer), and in the operations that a file of TensorFlow 1 runs
    first.
    """
    graph = meta_graph.graph_def
    functions = {f.signature.name: f.node_def for f in graph.library.function}
    every_node = [*graph.node, *(node for f in functions.values() for node in f)]
    refuse_effects(every_node, path, allowed=_RESTORE_OPS | _SAVE_OPS)
    of_objects = [
        node
        for name in meta_graph.object_graph_def.concrete_functions
        for node in functions.get(name, ())
    ]
    first = _needed_nodes(graph, _initial_operations(meta_graph))
    refuse_effects(_with_called_functions([*of_objects, *first], functions), path)
    restoring = _needed_nodes(graph, [meta_graph.saver_def.restore_op_name])
    refuse_effects(
        _with_called_functions(restoring, functions), path, allowed=_RESTORE_OPS
    )


def _initial_operations(meta_graph: tf.compat.v1.MetaGraphDef) -> list[str]:
    """Names of the nodes that loading runs first, in a SavedModel of TensorFlow 1."""
    names = []
    for collection in _INIT_COLLECTIONS:
        # "in" is used first, because a look-up in a protocol buffer's map would add the
        # key.
        if collection in meta_graph.collection_def:
            names += meta_graph.collection_def[collection].node_list.value
    if _INIT_SIGNATURE in meta_graph.signature_def:
        outputs = meta_graph.signature_def[_INIT_SIGNATURE].outputs
        names += [tensor.name for tensor in outputs.values()]
    return names


def _needed_nodes(
    graph: tf.compat.v1.GraphDef, references: Iterable[str]
) -> list[tf.compat.v1.NodeDef]:
    """The nodes that loading a SavedModel would run for some references."""
    names = {graphdef.split(reference.lstrip("^"))[0] for reference in references}
    there = names & {node.name for node in graph.node}
    return list(graphdef.reachable(graph, there).node)


def _with_called_functions(
    nodes: list[tf.compat.v1.NodeDef],
    functions: Mapping[str, Sequence[tf.compat.v1.NodeDef]],
) -> list[tf.compat.v1.NodeDef]:
    """Nodes to be checked, with those of the functions that they call, at any depth."""
    found = list(nodes)
    called: set[str] = set()
    for node in found:  # The list grows while it is read.
        names = [node.op]
        for attr in node.attr.values():
            names += [attr.func.name, *(f.name for f in attr.list.func)]
        for name in names:
            if name in functions and name not in called:
                called.add(name)
                found += functions[name]
    return found
