"""Losses by example, with class weights and the age heads of the literature.

::

    loss_fn = losses.build(losses.LossConfig(task="age_gender", age_head="corn"))
    losses_by_example = loss_fn(outputs, labels)      # {"loss", "age_loss", ...}, [B]

Nothing here divides by the batch size: the training step sums over the examples and
divides by the global batch size.  With class weights or CORN, the mean must instead
divide by the sum of the weights in the global batch.  Therefore the losses are
multiplied here by ``examples / sum``, both of the global batch.  After the step has
divided by ``examples``, only ``sum`` is left, for any number of replicas.

All losses are computed in float32, even if the network computes in 16 bits; float64
stays float64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from afad_tfdata.common import errors, options
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.common.options import option
from afad_tfdata.models import age_heads
from afad_tfdata.storage import schema

AGE_LOSSES = ("mae", "mse", "huber")

HUBER_DELTA = 1.0  # Years at which the Huber loss changes from square to linear.
DLDL_SIGMA = 2.0  # Years: standard deviation of the label distribution.
DLDL_V2_WEIGHT = 1.0  # Weight of the expectation's error; the divergence has 1.
MEAN_WEIGHT, VARIANCE_WEIGHT = 0.2, 0.05  # Mean-Variance: section 4.2 of the paper.

# Keeps the logarithm of a saturated probability finite; Keras' own epsilon.
_EPSILON = 1e-7

Tensors = Mapping[str, "tf.Tensor"]


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What a network is trained on; ages and head must be those of the network."""

    task: str = option(
        "age_gender", "Which labels the network is trained on.", choices=schema.TASKS
    )
    age_head: str = option(
        "regression", "How the network predicts the age.", choices=age_heads.NAMES
    )
    age_loss: str = option(
        "mae",
        "Loss of the regression head: absolute (mae), squared (mse) or Huber error.",
        choices=AGE_LOSSES,
    )
    age_weight: float = option(
        1.0, "Factor of the age loss in the sum that the joint task is trained on."
    )
    gender_weight: float = option(
        500.0,
        "Factor of the gender loss in that sum. The value 500 is that of the original"
        " project's successor, and makes a cross-entropy about as large as a squared"
        " error in years.",
    )
    min_age: int = option(15, "Lowest age that an age head knows, in years.")
    max_age: int = option(72, "Highest age that an age head knows, in years.")
    class_weights: tuple[float, float] = option(
        (1.0, 1.0), "Weights of genders 0 and 1.", flag=False
    )
    age_weights: tuple[float, ...] = option(
        (),
        "Weights of the ages from min_age to max_age; empty weighs all alike.",
        flag=False,
    )
    masks: bool = option(
        False,
        "Whether examples may lack a label, which is then `schema.MISSING`.",
        flag=False,
    )

    def __post_init__(self) -> None:
        options.check_choices(self)
        if self.min_age >= self.max_age:
            raise errors.UsageError(
                f"min_age={self.min_age} must be below max_age={self.max_age}"
            )
        for name in ("age_weight", "gender_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise errors.UsageError(
                    f"--{name} takes a number from 0 up; got {getattr(self, name)}"
                )
        if len(self.class_weights) != 2:
            raise errors.UsageError(
                f"--class_weight takes two weights; got {len(self.class_weights)}"
            )
        classes = self.max_age - self.min_age + 1
        if self.age_weights and len(self.age_weights) != classes:
            raise errors.UsageError(
                f"age weights: got {len(self.age_weights)}, wanted {classes}, one for"
                f" each age from {self.min_age} to {self.max_age}"
            )


def build(config: LossConfig) -> Callable[..., dict[str, tf.Tensor]]:
    """Builds the loss function of a config.

    Returns:
      A function ``(outputs, labels, *, normalize=True, batch_labels=None)`` that
      returns a dict of float32 ``[B]``: ``loss``, which is trained on, and those of its
      parts ``age_loss`` and ``gender_loss`` that the task has.  The parts include the
      weights of the classes, but not ``age_weight`` and ``gender_weight``.

      * outputs: from `networks.training_model`; without ``gender_logits`` the
        cross-entropy is computed from the probability.
      * labels: ``age`` ``[B]`` in years and ``gender`` ``[B]``, 0 or 1.
        With `LossConfig.masks`, an example without a label adds nothing to that label's
        loss, and the means are over the other examples.
      * normalize: False for evaluation, where an example's loss must not depend on the
        other examples of its batch: class weights stay as they are, and CORN takes the
        mean over the example's own questions.
      * batch_labels: the labels of the global batch, if ``labels`` are only a part of
        it.  The normalisers are computed from them.
    """
    names = schema.labels_of(config.task)

    def loss_fn(
        outputs: Tensors,
        labels: Tensors,
        *,
        normalize: bool = True,
        batch_labels: Tensors | None = None,
    ) -> dict[str, tf.Tensor]:
        """The losses by example of a batch, as `build` describes them."""
        whole = labels if batch_labels is None else batch_labels
        result = {}
        for name in names:
            parts = _PARTS[name]
            known = _known_labels(labels, config)
            values = parts.losses(outputs, known, config)
            factors = _example_weights(name, labels, config, values.dtype)
            if normalize:
                factors *= _normalizer(name, whole, config, values.dtype)
            else:
                factors /= parts.terms(known, config, values.dtype)
            result[f"{name}_loss"] = factors * values
        if len(names) == 1:
            result["loss"] = result[f"{names[0]}_loss"]
        else:
            result["loss"] = (
                config.age_weight * result["age_loss"]
                + config.gender_weight * result["gender_loss"]
            )
        return result

    return loss_fn


def weighs_by_batch(config: LossConfig) -> bool:
    """Whether an example's loss depends on the other labels of its batch.

    If not, the function of `build` does not need the labels of other replicas.
    """
    if config.masks:
        return True
    names = schema.labels_of(config.task)
    weights: tuple[float, ...] = config.class_weights if "gender" in names else ()
    if "age" in names:
        if config.age_head == "corn":
            return True
        weights += config.age_weights
    return any(weight != 1 for weight in weights)


class _LossParts(NamedTuple):
    """What the loss of a label consists of; each attribute is ``[B]``.

    Attributes:
      losses: The losses of the examples, summed over their terms, without weights.
      weights: The examples' class weights.
      terms: How many terms the loss of each example has.
    """

    losses: Callable[[Tensors, Tensors, LossConfig], tf.Tensor]
    weights: Callable[[Tensors, LossConfig, tf.DType], tf.Tensor]
    terms: Callable[[Tensors, LossConfig, tf.DType], tf.Tensor]


def _known_labels(labels: Tensors, config: LossConfig) -> Tensors:
    """The labels of a loss, with 0 in place of the missing ones."""
    if not config.masks:
        return labels
    return {name: tf.maximum(value, 0) for name, value in labels.items()}


def _example_weights(
    name: str, labels: Tensors, config: LossConfig, dtype: tf.DType
) -> tf.Tensor:
    """The weights of examples in a loss, ``[B]``; 0 for those without this label."""
    weights = _PARTS[name].weights(_known_labels(labels, config), config, dtype)
    if config.masks:
        weights *= tf.cast(labels[name] >= 0, dtype)
    return weights


def _normalizer(
    name: str, labels: Tensors, config: LossConfig, dtype: tf.DType
) -> tf.Tensor:
    """What a loss is multiplied by, so that the weights of its terms are 1 on average.

    It is the number of examples, divided by the sum of the weights of all their terms.
    """
    total = _example_weights(name, labels, config, dtype)
    examples = tf.cast(tf.size(total), dtype)
    total *= _PARTS[name].terms(_known_labels(labels, config), config, dtype)
    # If all weights of a batch are 0, its losses are also 0, and not NaN.
    return tf.math.divide_no_nan(examples, tf.reduce_sum(total))


def _gender_losses(outputs: Tensors, labels: Tensors, config: LossConfig) -> tf.Tensor:
    """The gender loss of each example: binary cross-entropy.

    It comes from logits if possible, because these do not saturate.
    """
    del config
    if "gender_logits" in outputs:
        logits = _flat_vector(outputs["gender_logits"])
        target = tf.cast(labels["gender"], logits.dtype)
        return tf.nn.sigmoid_cross_entropy_with_logits(labels=target, logits=logits)
    probability = _flat_vector(outputs["gender_output"])
    probability = tf.clip_by_value(probability, _EPSILON, 1 - _EPSILON)
    return -tf.math.log(tf.where(labels["gender"] > 0, probability, 1 - probability))


def _gender_weights(labels: Tensors, config: LossConfig, dtype: tf.DType) -> tf.Tensor:
    """The class weight of each example in the gender loss."""
    weights = tf.constant(config.class_weights, dtype)
    return tf.gather(weights, tf.cast(labels["gender"], tf.int32))


def _gender_terms(labels: Tensors, config: LossConfig, dtype: tf.DType) -> tf.Tensor:
    """How many terms each example has in the gender loss."""
    del config
    return tf.ones_like(labels["gender"], dtype)


def _age_losses(outputs: Tensors, labels: Tensors, config: LossConfig) -> tf.Tensor:
    """The age loss of each example, by age head."""
    return _AGE_LOSSES[config.age_head](outputs, labels, config)


def _age_weights(labels: Tensors, config: LossConfig, dtype: tf.DType) -> tf.Tensor:
    """The class weight of each example in the age loss."""
    if not config.age_weights:
        return tf.ones_like(labels["age"], dtype)
    return tf.gather(
        tf.constant(config.age_weights, dtype), _age_classes(labels, config)
    )


def _age_terms(labels: Tensors, config: LossConfig, dtype: tf.DType) -> tf.Tensor:
    """How many terms each example has in the age loss: 1; for CORN, its questions."""
    if config.age_head != "corn":
        return tf.ones_like(labels["age"], dtype)
    asked = tf.minimum(
        _age_classes(labels, config) + 1, config.max_age - config.min_age
    )
    return tf.cast(asked, dtype)


_PARTS = {
    "age": _LossParts(_age_losses, _age_weights, _age_terms),
    "gender": _LossParts(_gender_losses, _gender_weights, _gender_terms),
}


def _regression(outputs: Tensors, labels: Tensors, config: LossConfig) -> tf.Tensor:
    """Loss of `regression`: absolute, squared or Huber error in years.

    Huber, "Robust estimation of a location parameter", 1964, with `HUBER_DELTA`.
    """
    age = _flat_vector(outputs["age_output"])
    error = tf.abs(age - tf.cast(labels["age"], age.dtype))
    if config.age_loss == "mse":
        return tf.square(error)
    if config.age_loss == "huber":
        straight = HUBER_DELTA * (error - 0.5 * HUBER_DELTA)
        return tf.where(error <= HUBER_DELTA, 0.5 * tf.square(error), straight)
    return error


def _softmax_expectation(
    outputs: Tensors, labels: Tensors, config: LossConfig
) -> tf.Tensor:
    """Loss of `softmax_expectation`: cross-entropy over the ages.

    Rothe, Timofte and Van Gool, "Deep expectation of real and apparent age from a
    single image without facial landmarks", IJCV 2018 (DEX).
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=_age_classes(labels, config),
        logits=_at_least_float32(outputs["age_logits"]),
    )


def _dldl(outputs: Tensors, labels: Tensors, config: LossConfig) -> tf.Tensor:
    """Loss of `dldl`: divergence from a normal distribution around the label.

    Gao, Xing, Xie, Wu and Geng, "Deep label distribution learning with label
    ambiguity", IEEE TIP 2017.  Its width is `DLDL_SIGMA`.
    """
    logits = _at_least_float32(outputs["age_logits"])
    distance = _distance_in_years(labels, config, logits.dtype)
    return _softmax_divergence(-0.5 * tf.square(distance / DLDL_SIGMA), logits)


def _dldl_v2(outputs: Tensors, labels: Tensors, config: LossConfig) -> tf.Tensor:
    """Loss of `dldl_v2`: the divergence of `_dldl` plus the absolute error of the mean.

    Gao, Zhou, Wu and Geng, "Age estimation using expectation of label distribution
    learning", IJCAI 2018.
    """
    age = _flat_vector(outputs["age_output"])
    error = tf.abs(age - tf.cast(labels["age"], age.dtype))
    return _dldl(outputs, labels, config) + DLDL_V2_WEIGHT * error


def _mean_variance(outputs: Tensors, labels: Tensors, config: LossConfig) -> tf.Tensor:
    """Loss of `mean_variance`: cross-entropy, squared error of the mean, variance.

    Pan, Han, Shan and Chen, "Mean-variance loss for deep age estimation from a face",
    CVPR 2018.
    """
    logits = _at_least_float32(outputs["age_logits"])
    share = tf.nn.softmax(logits)
    ages = _ages_of_classes(config, logits.dtype)
    mean = tf.reduce_sum(share * ages, axis=1, keepdims=True)
    variance = tf.reduce_sum(share * tf.square(ages - mean), axis=1)
    error = mean[:, 0] - tf.cast(labels["age"], logits.dtype)
    return (
        _softmax_expectation(outputs, labels, config)
        + MEAN_WEIGHT * 0.5 * tf.square(error)
        + VARIANCE_WEIGHT * variance
    )


def _sord(outputs: Tensors, labels: Tensors, config: LossConfig) -> tf.Tensor:
    """Loss of `sord`: divergence from a softmax over the negative distance in years.

    Diaz and Marathe, "Soft labels for ordinal regression", CVPR 2019, with the
    absolute difference as the metric.
    """
    logits = _at_least_float32(outputs["age_logits"])
    return _softmax_divergence(
        -tf.abs(_distance_in_years(labels, config, logits.dtype)), logits
    )


def _orcnn(outputs: Tensors, labels: Tensors, config: LossConfig) -> tf.Tensor:
    """Loss of `orcnn`: cross-entropies of the K - 1 questions "older than k?", summed.

    Niu, Zhou, Wang, Gao and Hua, "Ordinal regression with multiple output CNN for age
    estimation", CVPR 2016: the paper of the AFAD data set.
    """
    return tf.reduce_sum(_rank_terms(outputs, labels, config), axis=1)


def _coral(outputs: Tensors, labels: Tensors, config: LossConfig) -> tf.Tensor:
    """Loss of `coral`: that of `orcnn`.

    The questions share one weight vector, so that the answers never contradict each
    other.

    Cao, Mirjalili and Raschka, "Rank consistent ordinal regression for neural networks
    with application to age estimation", Pattern Recognition Letters 2020.
    """
    return _orcnn(outputs, labels, config)


def _corn(outputs: Tensors, labels: Tensors, config: LossConfig) -> tf.Tensor:
    """Loss of `corn`: cross-entropies of an example's questions, up to the first "no".

    Shi, Cao and Raschka, "Deep neural networks for rank-consistent ordinal regression
    based on conditional probabilities", Pattern Analysis and Applications 2023.  The
    loss is the sum over an example's questions, and the normaliser is the number of
    the questions of all examples.
    """
    terms = _rank_terms(outputs, labels, config)
    asked = tf.sequence_mask(
        tf.cast(_age_terms(labels, config, terms.dtype), tf.int32),
        terms.shape[1],
        terms.dtype,
    )
    return tf.reduce_sum(terms * asked, axis=1)


_AGE_LOSSES: dict[str, Callable[..., tf.Tensor]] = {
    "regression": _regression,
    "softmax_expectation": _softmax_expectation,
    "dldl": _dldl,
    "dldl_v2": _dldl_v2,
    "mean_variance": _mean_variance,
    "sord": _sord,
    "orcnn": _orcnn,
    "coral": _coral,
    "corn": _corn,
}


def _softmax_divergence(target_logits: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The loss of two softmax distributions: Kullback-Leibler divergence ``[B]``."""
    log_target = tf.nn.log_softmax(target_logits)
    difference = log_target - tf.nn.log_softmax(logits)
    return tf.reduce_sum(tf.exp(log_target) * difference, axis=1)


def _rank_terms(outputs: Tensors, labels: Tensors, config: LossConfig) -> tf.Tensor:
    """The losses ``[B, K - 1]`` of rank heads: of each "older than min_age + k?"."""
    logits = _at_least_float32(outputs["age_logits"])
    older = tf.sequence_mask(
        _age_classes(labels, config), logits.shape[1], logits.dtype
    )
    return tf.nn.sigmoid_cross_entropy_with_logits(labels=older, logits=logits)


def _age_classes(labels: Tensors, config: LossConfig) -> tf.Tensor:
    """The classes of ages in a loss, int32 ``[B]``: the nearest for an age outside."""
    index = tf.cast(tf.round(labels["age"]), tf.int32) - config.min_age
    return tf.clip_by_value(index, 0, config.max_age - config.min_age)


def _ages_of_classes(config: LossConfig, dtype: tf.DType) -> tf.Tensor:
    """The years of the classes of a loss, ``[1, K]``."""
    ages = np.arange(config.min_age, config.max_age + 1)
    return tf.constant(ages[np.newaxis], dtype)


def _distance_in_years(
    labels: Tensors, config: LossConfig, dtype: tf.DType
) -> tf.Tensor:
    """Years ``[B, K]`` from each label to each age of the range, for losses."""
    return (
        _ages_of_classes(config, dtype) - tf.cast(labels["age"], dtype)[:, tf.newaxis]
    )


def _at_least_float32(value: tf.Tensor) -> tf.Tensor:
    """Outputs for a loss in float32, or in float64 as they are."""
    return value if value.dtype == tf.float64 else tf.cast(value, tf.float32)


def _flat_vector(value: tf.Tensor) -> tf.Tensor:
    """Labels or outputs of a loss as one vector of float32."""
    return tf.reshape(_at_least_float32(value), [-1])
