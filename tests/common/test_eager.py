"""A call in a graph or in a strategy's scope ends in one line."""

import pytest

from afad_tfdata import freeze
from afad_tfdata.common import eager, errors
from afad_tfdata.common.lazy_imports import tf
from afad_tfdata.training.distributed import strategies


@pytest.mark.parametrize(
    ("around", "text"),
    [
        (lambda: tf.Graph().as_default(), "eager execution is needed: .*tf.Graph"),
        (
            lambda: tf.distribute.OneDeviceStrategy("/cpu:0").scope(),
            "the scope of a tf.distribute strategy is active: .*field devices",
        ),
        # TensorFlow cannot differentiate the loop of the steps: it was a traceback.
        (lambda: tf.GradientTape(), "a tf.GradientTape is active.*outside of it"),
    ],
)
def test_training_and_evaluation(around, text):
    """The scope's strategy was once stored as the strategy of these devices."""
    with around(), pytest.raises(errors.UsageError, match=text):
        strategies.create_strategy("")
    assert strategies.create_strategy("") is strategies.create_strategy("")
    assert not tf.distribute.has_strategy()


def test_freezing(tmp_path):
    config = freeze.FreezeConfig(model=str(tmp_path), output_dir=str(tmp_path))
    with tf.Graph().as_default(), pytest.raises(errors.UsageError, match="eager"):
        freeze.freeze(config)


def test_freezing_works_in_a_scope():
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        eager.require(outside_of_scopes=False)


@pytest.fixture
def settings():
    """Keras' settings, which are those of the process."""
    import keras

    before = keras.config.floatx(), keras.config.image_data_format()
    yield keras.config
    keras.config.set_floatx(before[0])
    keras.config.set_image_data_format(before[1])


def test_coarse_numbers_of_keras_are_refused(settings):
    """Learning rates and the state of optimizers would have 3 digits."""
    settings.set_floatx("float16")
    with pytest.raises(errors.UsageError, match="floatx is 'float16'.*'float32'"):
        strategies.create_strategy("")
    settings.set_floatx("float64")
    strategies.create_strategy("")


def test_channels_first_is_seen_at_each_call(settings):
    """It was looked at when Keras was imported only."""
    settings.set_image_data_format("channels_first")
    with pytest.raises(errors.UsageError, match="'channels_first'"):
        strategies.create_strategy("")
