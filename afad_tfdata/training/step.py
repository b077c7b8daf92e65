"""The inner loop: batches in, gradients summed, weights changed.

How a step is divided over replicas:

* each replica gets ``global_batch_size / num_replicas`` consecutive images: those of
  replica r begin at position ``r * per_replica`` of the global batch;
* the loss of a replica is the sum of its per-example losses divided by the *global*
  batch, so that replicas add up to the mean;
* the gradients are summed over replicas once, here, before anything depends on them
  (whether they are finite, how large their norm is).  Keras would sum them again when
  it applies them; `_AlreadySummed` takes the place of that;
* under float16, the loss is multiplied by a scale before the gradient is taken.  If
  the gradient of one replica is infinite or NaN, so is the sum on every replica, and
  all of them skip the same step.  (On its own, ``LossScaleOptimizer`` looks only at the
  first replica.)
* every replica holds the same state of the random generators, and draws its dropout
  masks from that state and its own number.  The masks differ between replicas, and the
  state stays the same;
* the labels of all replicas are gathered only for losses that weigh an example by the
  others of its batch (`losses.weighs_by_batch`);
* what a step sums up for the history stays on its replica until the end of a call.

A GPU gets its work ahead of time: the process starts the operations of a step while the
GPU still computes the steps before.  Therefore no operation of a step may wait for a
result of an earlier step to arrive in the main memory.  `step_clock` measures how long
steps wait for input without such a result.

Nothing here depends on a path, an epoch or the time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.training import step_clock, weight_average
from afad_tfdata.training.distributed import strategies

# What `TrainStep.run` sums up, in this order.  The sums are float64, because an epoch
# adds up 100,000 examples, and float32 would lose the last digits of the mean.  `loss`
# is summed over all examples, as in training.  The sums after it are over the examples
# that have the label; the numbers of these examples come last.
SUMS = (
    *("examples", "loss", "age_loss", "gender_loss", "absolute_error", "correct"),
    *("age_examples", "gender_examples"),
)

# The largest number of steps in one call of `TrainStep.run`, and the length of its
# tensor of learning rates.  Even a fast step takes milliseconds, so that more steps in
# a call would not be faster.
MAX_STEPS_PER_CALL = 256

# 2^32 divided by the golden ratio.  Odd, so that its multiples differ in 32 bits.
_REPLICA_SEED = 0x9E3779B1


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """How a step is taken.

    Attributes:
      global_batch_size: Examples of a step, over all replicas.
      accumulation: Parts into which a replica's batch is cut; their gradients are
        added up before the weights change, for batches too large for the memory.
      clip_norm: Largest global norm of the summed gradient; 0 for no limit.
      loss_scaling: Whether the loss is scaled, which float16 needs.
      jit: Whether XLA compiles the forward and backward pass.
      ema_decay: Decay of a running average of the weights; 0 for none.
      gather_labels: Whether the loss gets the labels of the global batch, or only
        those of its replica (`losses.weighs_by_batch`).
      masks: Whether examples may lack a label.
    """

    global_batch_size: int
    accumulation: int = 1
    clip_norm: float = 0.0
    loss_scaling: bool = False
    jit: bool = False
    ema_decay: float = 0.0
    gather_labels: bool = True
    masks: bool = False


class TrainStep:
    """Takes steps on a strategy's replicas.

    Args:
      strategy: A ``tf.distribute.Strategy``.
      model: Maps normalised images to a dict of outputs (`networks.training_model`).
      optimizer: A Keras optimizer; it is built here.
      loss_fn: ``(outputs, labels, *, batch_labels, normalize)`` to a dict of
        per-example losses ``[B]``, of which ``loss`` is trained on (`losses.build`).
        ``batch_labels`` are those of the global batch, over which weights are
        normalised, or None (`StepConfig.gather_labels`); ``normalize`` is False in
        evaluation.
      prepare: Turns ``(images uint8 [B, H, W, 3], step, offset)`` into the model's
        input, by augmentation and normalisation.
      config: How a step is taken.

    Raises:
      UsageError: The replicas or parts do not divide the batch.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loss_fn: Callable[..., Mapping[str, tf.Tensor]],
        prepare: Callable[..., tf.Tensor],
        config: StepConfig,
    ) -> None:
        self.per_replica = per_replica_batch(
            strategy, config.global_batch_size, accumulation=config.accumulation
        )
        self._strategy, self._model, self._config = strategy, model, config
        self._on_gpus = strategies.uses_gpus(strategy)
        self._loss_fn, self._prepare = loss_fn, prepare
        with strategy.scope():
            if config.loss_scaling:
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
            optimizer.build(model.trainable_variables)
        self.optimizer = optimizer
        self._summed: _AlreadySummed | None = None
        if strategy.num_replicas_in_sync > 1:
            self._summed = _AlreadySummed(self.inner_optimizer)
        _separate_replica_seeds(model, strategy)
        self._weights = list(model.trainable_variables)
        self.average = (
            weight_average.WeightAverage(strategy, model, config.ema_decay)
            if config.ema_decay
            else None
        )
        self._forward_backward = (
            tf.function(self._gradients, jit_compile=True, autograph=False)
            if config.jit
            else self._gradients
        )
        # Each object needs a function of its own, because tracing fixes which weights
        # the function changes.
        self._run = tf.function(self._steps, autograph=False)

    @property
    def inner_optimizer(self) -> keras.optimizers.Optimizer:
        """The optimizer that holds the learning rate, without the one that scales."""
        return getattr(self.optimizer, "inner_optimizer", self.optimizer)

    def run(
        self, iterator: Iterator[Any], first_step: int, rates: Sequence[float]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Takes as many steps as there are learning rates.

        Args:
          iterator: Of the strategy's distributed data set.
          first_step: Number of the first step, which augmentation depends on.
          rates: Learning rate of each step; at most `MAX_STEPS_PER_CALL`.

        Returns:
          float64 ``[steps, len(SUMS)]``, what each step summed up over its examples,
          and float64 ``[]``, the seconds in which this call waited for input.  If the
          rows are added up one by one, their sum does not depend on how the steps are
          divided over calls.
        """
        # The tensor always has the same length: for another, TensorFlow would trace and
        # compile the function again.
        padded = np.zeros(MAX_STEPS_PER_CALL, np.float32)
        padded[: len(rates)] = rates
        return self._run(
            iterator,
            tf.constant(first_step, tf.int64),
            tf.constant(padded),
            tf.constant(len(rates)),
        )

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Replaces the weights by their average, if there is one, inside the block."""
        return self.average.applied() if self.average else contextlib.nullcontext()

    def _steps(
        self,
        iterator: Iterator[Any],
        first_step: tf.Tensor,
        rates: tf.Tensor,
        count: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Takes several steps in one call, and sums their losses."""
        replicas = strategies.local_replicas(self._strategy)
        rows = [
            tf.TensorArray(tf.float64, size=count, element_shape=[len(SUMS)])
            for _ in range(replicas)
        ]
        came, done = step_clock.times_of_steps(count), step_clock.times_of_steps(count)
        began = tf.timestamp()

        def take_step(
            i: tf.Tensor,
            came: tf.TensorArray,
            done: tf.TensorArray,
            rows: list[tf.TensorArray],
        ) -> tuple[Any, ...]:
            """Takes the i-th step of this call, and keeps its times and sums."""
            features, labels = next(iterator)
            batch_came = step_clock.time_of(self._local(labels))
            came = came.write(i, batch_came)
            self.inner_optimizer.learning_rate.assign(rates[i])
            step = first_step + tf.cast(i, tf.int64)
            sums, updated = self._strategy.run(
                self._replica_step, args=(features["image"], labels, step, batch_came)
            )
            local = self._local(sums)
            rows = [rows[r].write(i, local[r]) for r in range(replicas)]
            done = done.write(i, step_clock.time_of(self._local(updated)))
            return i + 1, came, done, rows

        _, came, done, rows = tf.while_loop(
            lambda i, *_: i < count, take_step, (tf.constant(0), came, done, rows)
        )
        waited = step_clock.seconds_waited(began, came.stack(), done.stack())
        return self._summed_rows([array.stack() for array in rows]), waited

    def _local(self, values: Any) -> list[tf.Tensor]:
        """The tensors of this process's replicas."""
        return [
            tensor
            for value in tf.nest.flatten(values)
            for tensor in self._strategy.experimental_local_results(value)
        ]

    def _summed_rows(self, rows: list[tf.Tensor]) -> tf.Tensor:
        """The sums over all replicas, added up in the order of the replicas.

        An all-reduce would add them up in an order that depends on the number of steps.
        """
        total = functools.reduce(tf.add, rows)
        if not strategies.spans_workers(self._strategy):
            return total

        def gather() -> tf.Tensor:
            """The totals of all replicas."""
            context = tf.distribute.get_replica_context()
            return context.all_gather(total[tf.newaxis], axis=0)

        # Every replica of a worker brings the worker's total.
        gathered = self._local(self._strategy.run(gather))[0][:: len(rows)]
        workers = self._strategy.num_replicas_in_sync // len(rows)
        return functools.reduce(tf.add, [gathered[i] for i in range(workers)])

    def _replica_step(
        self,
        images: tf.Tensor,
        labels: Mapping[str, tf.Tensor],
        step: tf.Tensor,
        batch_came: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The step's `SUMS` on this replica, and a number that the update changes."""
        context = tf.distribute.get_replica_context()
        if not self._on_gpus:
            images = step_clock.after(batch_came, images)
        offset = context.replica_id_in_sync_group * self.per_replica
        images = self._prepare(images, step, offset)
        whole = None
        if self._config.gather_labels:
            whole = _global_labels(context, labels)
        gradients: list[tf.Tensor] = []
        sums = 0.0
        part = self.per_replica // self._config.accumulation
        for i in range(self._config.accumulation):
            rows = slice(i * part, (i + 1) * part)
            more, part_sums = self._forward_backward(
                images[rows],
                {name: label[rows] for name, label in labels.items()},
                whole,
            )
            sums += part_sums
            if gradients:
                more = [a + b for a, b in zip(gradients, more, strict=True)]
            gradients = more
        self._apply(context, gradients)
        # The gradient of the first weight is the last to be known.
        updated = tf.reshape(self._weights[0].value, [-1])[0]
        return sums, updated

    def _gradients(
        self,
        images: tf.Tensor,
        labels: Mapping[str, tf.Tensor],
        batch_labels: Mapping[str, tf.Tensor] | None,
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Gradients of a part's share of the (scaled) loss, and that part's `SUMS`."""
        with tf.GradientTape() as tape:
            outputs = self._model(images, training=True)
            losses = self._loss_fn(
                outputs, labels, batch_labels=batch_labels, normalize=True
            )
            loss = tf.reduce_sum(losses["loss"]) / self._config.global_batch_size
            if self._model.losses:  # Regularisers count once, not per replica or part.
                shares = self._strategy.num_replicas_in_sync * self._config.accumulation
                # Keras sums them, too.  Without the sum, `loss` would get their shape,
                # and the gradient would be that of all of its entries.
                added = [tf.cast(x, loss.dtype) for x in self._model.losses]
                loss += tf.add_n([tf.reduce_sum(x) for x in added]) / shares
            if self._config.loss_scaling:
                loss = self.optimizer.scale_loss(loss)
        # TensorFlow's own variables, because it cannot make zeros like a Keras
        # variable.
        weights = [weight.value for weight in self._weights]
        gradients = tape.gradient(
            loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        whole = None
        if self._config.masks:
            whole = labels if batch_labels is None else batch_labels
        return gradients, _step_sums(losses, outputs, labels, whole)

    def _apply(
        self, context: tf.distribute.ReplicaContext, gradients: list[tf.Tensor]
    ) -> None:
        """Changes the weights by the summed gradients."""
        if self._summed is not None:
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        if self._config.clip_norm:
            limit = tf.cast(self._config.clip_norm, gradients[0].dtype)
            if self._config.loss_scaling:  # The limit is for the unscaled sum.
                limit *= tf.cast(self.optimizer.dynamic_scale, limit.dtype)
            # An infinite norm makes every gradient NaN.  Loss scaling skips such a
            # step; without it, the check of the weights finds it.
            gradients, _ = tf.clip_by_global_norm(gradients, limit)
        before = tf.convert_to_tensor(self.optimizer.iterations)
        self.optimizer.apply_gradients(zip(gradients, self._weights, strict=True))
        if self._summed is not None:
            self._summed.check_used()
        if self.average is not None:
            # Loss scaling skips a step whose gradient is infinite.
            after = tf.convert_to_tensor(self.optimizer.iterations)
            self.average.update(after - before)


def per_replica_batch(
    strategy: tf.distribute.Strategy, global_batch_size: int, *, accumulation: int = 1
) -> int:
    """Images of a replica in a step; refuses a batch that does not divide."""
    replicas = strategy.num_replicas_in_sync
    parts = replicas * accumulation
    if global_batch_size < 1 or global_batch_size % parts:
        raise errors.UsageError(
            f"--global_batch_size={global_batch_size} does not divide over {replicas}"
            f" replica(s) with {accumulation} part(s) each: take a multiple of {parts}"
        )
    return global_batch_size // replicas


def _global_labels(
    context: tf.distribute.ReplicaContext, labels: Mapping[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
    """The labels of a step on all replicas, in the order of the replicas."""
    # Other labels are only for a caller's loss, which gets no labels of the batch.
    labels = {name: labels[name] for name in ("age", "gender") if name in labels}
    if context.num_replicas_in_sync == 1:
        return labels
    # An argument of a function is on no device, but collective operations of several
    # workers need tensors on a device; identity puts the labels on one.
    return {n: context.all_gather(tf.identity(v), 0) for n, v in labels.items()}


class _AlreadySummed:
    """Takes the place of an optimizer's own summing of gradients over replicas.

    Args:
      optimizer: Its gradients are summed before it gets them.

    Raises:
      RuntimeError: This version of Keras does not sum where this class looks for it.
    """

    # This is private in Keras, which offers no other way to pass summed gradients.
    _NAME = "_all_reduce_sum_gradients"

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        self._used = False
        if not callable(getattr(optimizer, self._NAME, None)):
            raise self._error()
        setattr(optimizer, self._NAME, self)

    def __call__(self, gradients_and_weights: Iterable[Any]) -> list[Any]:
        self._used = True
        return list(gradients_and_weights)

    def check_used(self) -> None:
        """Raises an error if the optimizer summed the gradients in another way."""
        if not self._used:
            raise self._error()

    @staticmethod
    def _error() -> RuntimeError:
        """The error of gradients that Keras would sum again."""
        return RuntimeError(
            f"replicas would sum their gradients twice: Keras {keras.__version__} does"
            " not sum them where this version of afad_tfdata looks for it; train on"
            " one device, or install an older Keras"
        )


def _separate_replica_seeds(
    model: keras.Model, strategy: tf.distribute.Strategy
) -> None:
    """Makes the replicas of a step draw different numbers from one generator state.

    Keras mirrors the state of a ``SeedGenerator``, so that without this all replicas
    would drop the same places.  Replica 0 draws what a single device would draw.

    Raises:
      RuntimeError: A layer draws random numbers, and this version of Keras does not
        keep the layer's generators where this function looks for them.
    """
    for layer in model._flatten_layers():
        # This is private in Keras, but there is no other list of a layer's generators.
        # A layer without the list is searched below, so that it is noticed if a version
        # of Keras renames the list.
        generators = getattr(layer, "_seed_generators", None)
        replaceable = True
        for generator in generators or ():
            draw = getattr(generator, "next", None)
            replaceable &= callable(draw)
            if callable(draw) and not isinstance(draw, _ReplicaDraw):
                generator.next = _ReplicaDraw(draw)
        listed = generators is not None or not _holds_generator(layer)
        if strategy.num_replicas_in_sync > 1 and not (listed and replaceable):
            raise RuntimeError(
                f"replicas would share the random numbers of layer {layer.name}: Keras"
                f" {keras.__version__} does not keep its seed generators where this"
                " version of afad_tfdata looks for them; train on one device, or"
                " install an older Keras"
            )


def _holds_generator(layer: keras.layers.Layer) -> bool:
    """Whether a layer, as far as can be seen from outside, draws numbers in a step."""
    values: list[Any] = []
    for value in vars(layer).values():
        values += value if isinstance(value, list | tuple) else [value]
    return any(isinstance(value, keras.random.SeedGenerator) for value in values)


class _ReplicaDraw:
    """``SeedGenerator.next`` with the replica's number folded in."""

    def __init__(self, draw: Callable[..., tf.Tensor]) -> None:
        self._draw = draw

    def __call__(self, ordered: bool = True) -> tf.Tensor:
        seed = self._draw(ordered)
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return seed
        replica = tf.cast(context.replica_id_in_sync_group, tf.uint32)
        folded = tf.bitcast(replica * tf.constant(_REPLICA_SEED, tf.uint32), tf.int32)
        return seed + tf.stack([tf.cast(folded, seed.dtype), tf.cast(0, seed.dtype)])


def _step_sums(
    losses: Mapping[str, tf.Tensor],
    outputs: Mapping[str, tf.Tensor],
    labels: Mapping[str, tf.Tensor],
    partly_labelled: Mapping[str, tf.Tensor] | None,
) -> tf.Tensor:
    """The `SUMS` of a step over a batch, float64 ``[len(SUMS)]``.

    Args:
      losses: Of the examples.
      outputs: Of the network.
      labels: Of the examples.
      partly_labelled: Labels of the global batch, if examples may lack a label; else
        None.
    """
    ones = tf.ones_like(losses["loss"])
    sums = {"examples": ones, "loss": losses["loss"]}
    for name in ("age_loss", "gender_loss"):
        if name in losses:
            sums[name] = losses[name]
    # A loss of the caller's may have outputs without labels.
    if "age_output" in outputs and "age" in labels:
        age = tf.cast(tf.reshape(outputs["age_output"], [-1]), tf.float32)
        sums["absolute_error"] = tf.abs(age - tf.cast(labels["age"], tf.float32))
    if "gender_output" in outputs and "gender" in labels:
        probability = tf.cast(tf.reshape(outputs["gender_output"], [-1]), tf.float32)
        predicted = tf.cast(probability >= 0.5, labels["gender"].dtype)
        sums["correct"] = tf.cast(predicted == labels["gender"], tf.float32)
    sums |= {"age_examples": ones, "gender_examples": ones}
    shares = {}
    for label, metric in (("age", "absolute_error"), ("gender", "correct")):
        if partly_labelled is None or label not in labels:
            continue
        present = tf.cast(labels[label] >= 0, ones.dtype)
        sums[f"{label}_examples"] = present
        if metric in sums:
            sums[metric] *= tf.cast(present, sums[metric].dtype)
        # The loss of a label is divided by the share of the global batch that has it,
        # because the step divides by the whole batch.
        with_label = tf.cast(partly_labelled[label] >= 0, tf.float64)
        shares[f"{label}_loss"] = tf.reduce_mean(with_label)
    zero = tf.zeros([], tf.float64)
    totals = [
        tf.reduce_sum(tf.cast(sums[name], tf.float64)) if name in sums else zero
        for name in SUMS
    ]
    return tf.stack(
        [
            total * shares[name] if name in shares else total
            for name, total in zip(SUMS, totals, strict=True)
        ]
    )
