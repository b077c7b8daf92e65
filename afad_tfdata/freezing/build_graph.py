"""Builds the frozen graph: traces, makes constants, folds them, and names nodes.

::

    source = model_source.open_source("runs/first")
    graph = build_graph.build(source, {"age": "age_output/BiasAdd"})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.freezing import (
    constant_folding,
    graphdef,
    group_normalizations,
    grouped_convolutions,
    means_as_products,
    model_source,
    output_nodes,
    tf1_compatibility,
    variables_to_constants,
)


def build(
    source: model_source.Source,
    fetches: Mapping[str, str],
    *,
    feed: str = "root_input",
    fold_constants: bool = True,
    tf1_compatible: bool = True,
) -> tf.compat.v1.GraphDef:
    """Builds the frozen graph of a model.

    Args:
      source: The model, from `model_source`.
      fetches: Names for the outputs by label.
      feed: Name for the input.
      fold_constants: Whether to fold constants, and batch normalisation into weights.
      tf1_compatible: Whether to replace grouped convolutions, which TensorFlow 1.15
        cannot run on a CPU, and to refuse all other operations that it does not know or
        cannot run.

    Returns:
      A graph of constants, float32, from ``feed``, ``[n, size, size, 3]``, to
      ``fetches``, ``[n, 1]`` or ``[n]`` each.

    Raises:
      UsageError: The model cannot be expressed as such a graph.
    """
    function = _trace_model(source)
    graph, (traced_feed,), traced_fetches = variables_to_constants.from_function(
        function
    )
    # This comes before constant folding, which looks only at direct neighbours.
    graph = graphdef.without_identities(graph, [*traced_fetches, traced_feed])
    if fold_constants:
        # The order matters: folding constants turns a batch normalisation into a factor
        # and a summand, which the second step moves into weights.
        graph = constant_folding.fold_reshape_sizes(graph)
        graph = constant_folding.fold_constants(graph, traced_fetches)
        graph = constant_folding.without_neutral_constants(
            graph, [*traced_fetches, traced_feed]
        )
        graph = means_as_products.replace_means(graph)
        graph = constant_folding.fold_normalization(graph, traced_fetches)
        graph = group_normalizations.in_four_axes(graph)
    # This comes after constant folding, so that its new nodes get a suffix if they have
    # one of these names.
    wanted = [fetches[label] for label in source.labels]
    names = {**dict(zip(traced_fetches, wanted, strict=True)), traced_feed: feed}
    graph = graphdef.renamed(graph, names)
    graph = output_nodes.separate(graph, wanted)
    _refuse_half_precision(graph, source.layers)
    # This comes last, because it drops attributes that the steps before read.
    if tf1_compatible:
        graph = grouped_convolutions.without_groups(graph, layers=source.layers)
        graph = tf1_compatibility.loadable(graph, layers=source.layers)
        tf1_compatibility.check_kernels(graph, layers=source.layers)
        return graph
    return graphdef.without_private(graph)


def _trace_model(
    source: model_source.Source,
) -> tf.types.experimental.ConcreteFunction:
    """The model as a function from a batch of any size to its outputs, in order."""
    size = source.image_size
    spec = tf.TensorSpec([None, size, size, 3], tf.float32, name="images")

    # AutoGraph would turn a Python "if" on a tensor into a branch, which a graph
    # without functions cannot contain.  Without it, tracing raises an error there.
    @tf.function(autograph=False)
    def function(images: tf.Tensor) -> list[tf.Tensor]:
        """The outputs of the model, in order, which are traced."""
        outputs = source.call(images)
        return [outputs[label] for label in source.labels]

    try:
        return function.get_concrete_function(spec)
    except (ValueError, TypeError, tf.errors.OpError) as error:
        raise errors.UsageError(
            "the model cannot be traced for batches of any size"
            f" ({errors.one_line(error)}): if its code depends on the size of the"
            " batch, change that"
        ) from error


def _refuse_half_precision(graph: tf.compat.v1.GraphDef, layers: Sequence[str]) -> None:
    """Refuses to build a graph that computes in half precision."""
    half = (tf.float16.as_datatype_enum, tf.bfloat16.as_datatype_enum)
    for node in graph.node:
        if any(attr.type in half for attr in node.attr.values()):
            layer = graphdef.layer_of(node.name, layers)
            raise errors.UsageError(
                f"{'layer ' + layer if layer else 'node ' + node.name} computes in half"
                " precision, and the frozen graph is float32: freeze the .keras file,"
                " which can be built again in float32, or train without float16"
            )
