"""A running average of the weights, which is what gets evaluated and saved.

After step t (counted from 0), ``average += (1 - decay(t)) * (weights - average)``.  The
decay grows with the steps up to the one that was asked for::

    decay(t) = min(ema_decay, t / (19 + t))

The first decay is 0, so that nothing is left of the value with which the average
begins.  A constant decay of 0.998 would leave 44 % of the first, random weights in the
average of 411 steps.  Until the decay is reached, the average covers about the last
twentieth of the steps.  TensorFlow's ``ExponentialMovingAverage`` warms up in the same
way, but with 9 instead of 19.  On faces, 9 made short trainings of a network without
normalisation worse.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.models import networks
from afad_tfdata.training.distributed import strategies

# A larger number gives later steps more weight: until the decay is reached, the weights
# of step s count in proportion to about s ** 19.
_WARMUP = 19.0


class WeightAverage:
    """The average of a network's weights over the steps of a phase.

    It also averages the statistics of layers like BatchNormalization, because they
    must fit the averaged weights.

    Args:
      strategy: That of the network's variables.
      network: Its trainable variables and the statistics of its layers that train are
        averaged.
      decay: In (0, 1).
    """

    def __init__(
        self, strategy: tf.distribute.Strategy, network: keras.Model, decay: float
    ) -> None:
        self._strategy, self._decay = strategy, decay
        self._weights = list(network.trainable_variables)
        self._statistics = _averaged_statistics(network)
        self._averaged = [*self._weights, *self._statistics]
        with strategy.scope():
            self._steps = tf.Variable(
                tf.zeros([], tf.int64), trainable=False, name="averaged_steps"
            )
            self._averages = [
                tf.Variable(
                    tf.zeros(variable.shape, _average_dtype(variable)),
                    trainable=False,
                    name=f"average_{i}",
                )
                for i, variable in enumerate(self._averaged)
            ]

    @property
    def variables(self) -> list[tf.Variable]:
        """The variables for a checkpoint: the number of steps, then the averages."""
        return [self._steps, *self._averages]

    def update(self, taken: tf.Tensor | int = 1) -> None:
        """Adds the present weights; each replica calls this after a step.

        Args:
          taken: 1, or int64 ``[]`` that is 0 if the step was skipped, whose weights
            then do not count twice.
        """
        taken = tf.cast(taken, tf.int64)
        steps = tf.cast(self._steps.read_value(), tf.float64)
        decay = tf.minimum(
            tf.constant(self._decay, tf.float64), steps / (_WARMUP + steps)
        )
        share = (1 - decay) * tf.cast(taken, tf.float64)
        for average, variable in zip(self._averages, self._averaged, strict=True):
            value = tf.cast(tf.convert_to_tensor(variable.value), average.dtype)
            # In this form an average of equal values is exactly that value.
            average.assign_add(tf.cast(share, average.dtype) * (value - average))
        self._steps.assign_add(taken)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Gives the network its averages inside the block, if a step was taken."""
        if not strategies.local_value(self._strategy, self._steps):
            yield
            return
        own = [strategies.local_value(self._strategy, v) for v in self._averaged]
        averages = [strategies.local_value(self._strategy, a) for a in self._averages]
        try:
            self._assign(averages)
            yield
        finally:
            self._assign(own)

    def _assign(self, values: Sequence[np.ndarray]) -> None:
        """Sets the averaged weights."""
        with self._strategy.scope():
            for variable, value in zip(self._averaged, values, strict=True):
                variable.assign(value)

    def with_keras_averages(
        self,
        arrays: Mapping[str, np.ndarray],
        optimizer: keras.optimizers.Optimizer,
        model_variables: Sequence[keras.Variable],
    ) -> Mapping[str, np.ndarray]:
        """Arrays of a checkpoint, whose average may be in the optimizer.

        Until version 0.2 a Keras optimizer kept the average, between its rate and its
        moments, and the statistics had none.

        Args:
          arrays: The variables ``model/i``, ``optimizer/i`` and ``average/i``.
          optimizer: The optimizer that the checkpoint is for, without an average.
          model_variables: Those of the checkpoint, in its order.

        Returns:
          The arrays as they are stored now.  The average goes on from the number of
          steps that the optimizer took.
        """
        if "average/0" in arrays or "optimizer/0" not in arrays:
            return arrays
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        # An optimizer's variables begin with its number of steps and its rate.
        first = len(optimizer.variables) - len(inner.variables) + 2
        count = len(self._weights)
        moved = {n: a for n, a in arrays.items() if not n.startswith("optimizer/")}
        stored = len(arrays) - len(moved)
        moved["average/0"] = np.asarray(arrays[f"optimizer/{first - 2}"], np.int64)
        for i in range(stored):
            if i < first:
                name = f"optimizer/{i}"
            elif i < first + count:
                name = f"average/{i - first + 1}"
            else:
                name = f"optimizer/{i - count}"
            moved[name] = arrays[f"optimizer/{i}"]
        positions = {id(variable): i for i, variable in enumerate(model_variables)}
        for i, statistic in enumerate(self._statistics, 1 + count):
            moved[f"average/{i}"] = arrays[f"model/{positions[id(statistic)]}"]
        return moved


def too_long_decay(decay: float, steps: int) -> str:
    """A warning if the decay of the average is too near to 1 for a training.

    Args:
      decay: As asked for; 0 for no average.
      steps: Steps that the phase takes at most.

    Returns:
      One line, or an empty text if the decay's memory is shorter than the phase.
    """
    memory = 1 / (1 - decay)  # Older weights count less than 1 / e of the newest.
    if not decay or memory <= steps:
        return ""
    covered = max(1, round(steps / (_WARMUP + 1)))
    return (
        f"--ema_decay={decay:g} averages over about {memory:.0f} steps, but this phase"
        f" takes at most {steps}: the average will cover about the last {covered} steps"
        " of the phase; train longer, or take a smaller --ema_decay"
    )


def _average_dtype(variable: keras.Variable) -> tf.DType:
    """Dtype of a weight's average: float32 at least, to follow small changes."""
    return tf.float64 if variable.dtype == "float64" else tf.float32


def _averaged_statistics(network: keras.Model) -> list[keras.Variable]:
    """Numbers that layers keep and change in training, which are averaged, too."""
    found = []
    for layer in network._flatten_layers():  # Private, but Keras has no other list.
        is_leaf = next(iter(layer._flatten_layers(include_self=False)), None) is None
        if is_leaf and layer.trainable:
            found += [
                variable
                for variable in layer.non_trainable_variables
                if "float" in str(variable.dtype)
            ]
    changing = {id(variable) for variable in networks.stored_variables(network)}
    return [v for v in {id(v): v for v in found}.values() if id(v) in changing]
