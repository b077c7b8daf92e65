"""Counts the operations for which replicas, devices and the process wait in a step.

    python -m tests.training.step_graph      # prints the table of docs/training.md

The counts are those of the graph that TensorFlow traced for one step.  Operations of
all functions that the graph calls are counted.

*Collectives* are operations in which every replica waits for all others.

*Host synchronisations* are operations for which the process waits until a result of a
step is in its memory, before it can go on with the same or the next step: the fetching
of a batch, a branch or a loop, Python code, and reading the clock, if they depend on a
result of a step.  Reading the clock does not count if the next step begins without it.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any, NamedTuple

from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.training import step

_REDUCE = ("CollectiveReduce", "NcclAllReduce", "NcclReduce")
_GATHER = ("CollectiveGather", "CollectiveAllToAll", "NcclBroadcast")
_FETCHES = ("IteratorGetNext", "MultiDeviceIteratorGetNext")
_BRANCHES = ("If", "StatelessIf", "Case", "StatelessCase", "While", "StatelessWhile")
_PYTHON = ("PyFunc", "EagerPyFunc")
_CLOCK = ("Timestamp",)
# What a step computes begins with what it reads from the weights.
_WEIGHTS = ("ReadVariableOp",)


class Counts(NamedTuple):
    """Of one step.

    Attributes:
      reduces: All-reduces of one replica.
      gathers: Gathers of one replica.
      host_syncs: As in the module's text.
    """

    reduces: int
    gathers: int
    host_syncs: int


def count(train_step: step.TrainStep, iterator: Any, replicas: int) -> Counts:
    """The counts of a step of `replicas` replicas in this process."""
    traced = train_step._run.get_concrete_function(
        iterator,
        tf.constant(0, tf.int64),
        tf.zeros([step.MAX_STEPS_PER_CALL]),
        tf.constant(1),
    )
    graph = traced.graph.as_graph_def()
    functions = {f.signature.name: f for f in graph.library.function}
    loops = [node for node in graph.node if node.op in ("While", "StatelessWhile")]
    (loop,) = loops  # `TrainStep` takes the steps of a call in one loop.
    body = functions[loop.attr["body"].func.name]
    kinds = collections.Counter(_operations(body, functions))
    collectives = [
        sum(n for kind, n in kinds.items() if kind.startswith(names)) // replicas
        for names in (_REDUCE, _GATHER)
    ]
    return Counts(*collectives, len(_host_syncs(body, functions)))


def _called(node: Any) -> list[str]:
    """Names of the functions that a node calls."""
    return [
        name
        for value in node.attr.values()
        for name in [value.func.name, *(f.name for f in value.list.func)]
        if name
    ]


def _operations(function: Any, functions: dict[str, Any]) -> Iterator[str]:
    for node in function.node_def:
        yield node.op
        for name in _called(node):
            yield from _operations(functions[name], functions)


def _host_syncs(body: Any, functions: dict[str, Any]) -> list[str]:
    """Names of the nodes of a loop's body for which the process waits."""
    arguments = [argument.name for argument in body.signature.input_arg]
    results = [argument.name for argument in body.signature.output_arg]
    # The results of one step are the arguments of the next, until no more are found.
    computed: set[str] = set()
    while True:
        nodes = _depending(body, functions, computed)
        after = {
            argument
            for argument, result in zip(arguments, results, strict=True)
            if _node(body.ret[result]) in nodes
        }
        if after <= computed:
            break
        computed |= after
    late = _depending(body, functions, computed) | computed
    # The next step begins when these nodes have ended.
    awaited = set(body.control_ret.values())
    return [
        node.name
        for node in body.node_def
        if (_calls(node, functions, _FETCHES + _PYTHON) and _inputs(node) & late)
        # The first input of a branch is its condition.
        or (node.op in _BRANCHES and _node(node.input[0]) in late)
        or (node.name in awaited & late and _calls(node, functions, _CLOCK))
    ]


def _depending(body: Any, functions: dict[str, Any], computed: set[str]) -> set[str]:
    """Names of the nodes that depend on weights or on computed arguments."""
    found: set[str] = set()
    grown = True
    while grown:
        grown = False
        for node in body.node_def:
            if node.name in found:
                continue
            if _calls(node, functions, _WEIGHTS) or _inputs(node) & (found | computed):
                found.add(node.name)
                grown = True
    return found


def _calls(node: Any, functions: dict[str, Any], kinds: tuple[str, ...]) -> bool:
    """Whether a node is of one of the kinds, or calls a function with such a node."""
    return node.op.startswith(kinds) or any(
        kind.startswith(kinds)
        for name in _called(node)
        for kind in _operations(functions[name], functions)
    )


def _inputs(node: Any) -> set[str]:
    return {_node(name) for name in node.input}


def _node(name: str) -> str:
    """The node of an input such as ``^node`` or ``node:output:0``."""
    return name.removeprefix("^").split(":")[0]


def main() -> None:
    """Prints the table."""
    from afad_tfdata.training.distributed import strategies
    from tests.training import test_step, test_step_graph

    strategy = strategies.create_strategy("cpu:2")
    print("| step | all-reduces | gathers | host synchronisations |\n|---|---|---|---|")
    for name, (options, _) in test_step_graph.STEPS.items():
        _, train_step = test_step.make_trainer(strategy, **options)
        found = count(train_step, test_step.batches(strategy), 2)
        print(f"| {name} | {found.reduces} | {found.gathers} | {found.host_syncs} |")


if __name__ == "__main__":
    main()
