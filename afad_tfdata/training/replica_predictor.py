"""Runs a model over a finite data set on the replicas of a strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.models import age_heads
from afad_tfdata.training.distributed import strategies

# What a `Predictor` returns of the outputs called NAME_output.
_COLUMNS = ("age", "gender", "gender_logit", "age_spread")


class Predictor:
    """Runs a model over a finite data set on a strategy's replicas.

    Args:
      strategy: A ``tf.distribute.Strategy``.
      model: As for `step.TrainStep`.
      loss_fn: As for `step.TrainStep`, or None if no loss is needed.
      prepare: Turns images into the model's input, by normalisation only.
      derive: Turns the model's outputs into further ones, which the loss does not get.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        loss_fn: Callable[..., Mapping[str, tf.Tensor]] | None,
        prepare: Callable[[tf.Tensor], tf.Tensor],
        derive: Callable[[Mapping[str, tf.Tensor]], Mapping[str, tf.Tensor]]
        | None = None,
    ) -> None:
        self._strategy, self._model = strategy, model
        self._loss_fn, self._prepare = loss_fn, prepare
        self._derive = derive or (lambda outputs: {})
        self._run = tf.function(self._predict, autograph=False)

    def run(self, dataset: Iterable[Any]) -> dict[str, np.ndarray]:
        """Predictions for every example, once each and in the data set's order.

        Args:
          dataset: Of distributed batches; elements ``(features, labels)`` where
            ``features["mask"]`` is False on padding.

        Returns:
          Arrays ``[num_examples]``: ``age`` and/or ``gender`` as predicted;
          ``gender_logit`` and ``age_spread`` if the model returns an output of that
          name; ``label_age``, ``label_gender`` and, with a loss, ``loss``,
          ``age_loss``, ``gender_loss``.
        """
        columns: dict[str, list[np.ndarray]] = {}
        for features, labels in dataset:
            results = self._run(features, labels)
            local = {
                name: np.concatenate(
                    [
                        part.numpy()
                        for part in self._strategy.experimental_local_results(value)
                    ]
                )
                for name, value in results.items()
            }
            mask = local.pop("mask").astype(bool)
            for name, values in local.items():
                columns.setdefault(name, []).append(values[mask])
        return {name: np.concatenate(parts) for name, parts in columns.items()}

    def _predict(
        self, features: Mapping[str, Any], labels: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Results of all replicas, including those of other workers, if any."""
        results = self._strategy.run(self._replica_predict, args=(features, labels))
        if strategies.spans_workers(self._strategy):
            results = {n: self._strategy.gather(v, 0) for n, v in results.items()}
        return results

    def _replica_predict(
        self, features: Mapping[str, tf.Tensor], labels: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """Predicts one replica's part of a batch."""
        outputs = self._model(self._prepare(features["image"]), training=False)
        # Collective operations do not gather booleans, and need tensors on a device.
        result = {"mask": tf.cast(features["mask"], tf.int32)}
        known = {**outputs, **self._derive(outputs)}
        for name in _COLUMNS:
            if f"{name}_output" in known:
                output = tf.cast(known[f"{name}_output"], tf.float32)
                result[name] = tf.reshape(output, [-1])
            if name in labels:
                result[f"label_{name}"] = tf.identity(labels[name])
        if self._loss_fn is not None:
            result.update(
                self._loss_fn(outputs, labels, batch_labels=labels, normalize=False)
            )
        return result


def age_spread_output(
    outputs: Mapping[str, tf.Tensor], *, network: Mapping[str, Any]
) -> dict[str, tf.Tensor]:
    """For a predictor: ``age_spread_output`` ``[n, 1]``, if the age has a distribution.

    Args:
      outputs: Of `networks.training_model`.
      network: `networks.ModelConfig` as plain values; empty for a foreign model, whose
        logits may mean something else.
    """
    if "age_logits" not in outputs or not network:
        return {}
    logits = tf.cast(outputs["age_logits"], tf.float32)
    head, ages = network["age_head"], (network["min_age"], network["max_age"])
    return {"age_spread_output": age_heads.spread(logits, head, *ages)}
