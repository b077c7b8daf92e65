"""The layers between a backbone's features and the outputs of a task."""

from __future__ import annotations

from typing import Any

from afad_tfdata.common.lazy import keras
from afad_tfdata.models import age_heads


def gender_branch(features: Any, config: Any) -> Any:
    """Dropout, two dense layers, ``gender_logits`` and ``gender_output``.

    Args:
      features: Keras tensor ``[n, channels]``.
      config: `networks.ModelConfig`.

    Returns:
      Keras tensor ``[n, 1]``: the probability of class 1.
    """
    x = keras.layers.Dropout(config.gender_dropout, name="gender_dropout")(features)
    x = _hidden(x, "gender_dense_1", config)
    x = _hidden(x, "gender_dense_2", config)
    logits = keras.layers.Dense(1, dtype=_wide(), name="gender_logits")(x)
    output = keras.layers.Activation("sigmoid", dtype=_wide(), name="gender_output")
    return output(logits)


def age_branch(features: Any, gender: Any, config: Any) -> Any:
    """Dropout, two dense layers, ``age_logits`` where there are any, ``age_output``.

    Args:
      features: Keras tensor ``[n, channels]``.
      gender: Probability ``[n, 1]`` that the second dense layer sees too, or None.
      config: `networks.ModelConfig`.

    Returns:
      Keras tensor ``[n, 1]``: years.
    """
    from afad_tfdata.models import layers

    x = keras.layers.Dropout(config.age_dropout, name="age_dropout")(features)
    x = _hidden(x, "age_dense_1", config)
    if gender is not None:
        # Behind the first layer: one column among thousands of features would drown.
        x = keras.layers.Concatenate(name="age_and_gender")([x, gender])
    x = _hidden(x, "age_dense_2", config)
    head, ages = config.age_head, (config.min_age, config.max_age)
    if head == "regression":
        first = keras.initializers.Constant(config.initial_age)
        output = keras.layers.Dense(
            1, bias_initializer=first, dtype=_wide(), name="age_output"
        )
        return output(x)
    initial = age_heads.initial_logits(head, *ages, config.initial_age).tolist()
    if head == "coral":
        score = keras.layers.Dense(1, use_bias=False, dtype=_wide(), name="age_score")
        bias = layers.RankBias(initial, dtype=_wide(), name="age_logits")
        logits = bias(score(x))
    else:
        dense = keras.layers.Dense(
            len(initial),
            bias_initializer=layers.InitialBias(initial),
            dtype=_wide(),
            name="age_logits",
        )
        logits = dense(x)
    return layers.AgeDecoder(head, *ages, dtype=_wide(), name="age_output")(logits)


def _hidden(x: Any, name: str, config: Any) -> Any:
    return keras.layers.Dense(config.hidden_units, activation="relu", name=name)(x)


def _wide() -> str:
    """What comes out is float32 under every policy; float64 stays what it is."""
    return "float64" if keras.config.dtype_policy().name == "float64" else "float32"
