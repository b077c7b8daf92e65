"""Networks: names, heads, stages, precision, models of other programs, learning."""

import numpy as np
import pytest

from afad_tfdata import models
from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.freezing import tf1_compatibility
from afad_tfdata.images import codec, drawn_faces
from afad_tfdata.models import age_heads, backbones, losses, networks
from afad_tfdata.storage import schema
from tests.models.small_networks import MEAN, SIZE, inputs, make


@pytest.mark.latest
@pytest.mark.parametrize("task", schema.TASKS)
def test_names_shapes_and_ranges(task):
    model = make(task=task)
    assert model.inputs[0].name == "root_input"
    assert model.inputs[0].dtype == "float32"
    names = [f"{label}_output" for label in schema.labels_of(task)]
    assert model.output_names == names
    network = models.training_model(model)
    outputs = network(inputs())
    logits = {"gender_logits"} if "gender" in task else set()
    assert set(outputs) == set(names) | logits
    for output in outputs.values():
        assert output.shape == (4, 1) and output.dtype == tf.float32
    for name, value in zip(names, tf.nest.flatten(model(inputs())), strict=True):
        np.testing.assert_allclose(value, outputs[name], rtol=1e-6)
    if "gender" in task:
        probability = tf.sigmoid(outputs["gender_logits"])
        np.testing.assert_allclose(outputs["gender_output"], probability, rtol=1e-6)
    assert {id(v) for v in network.variables} == {id(v) for v in model.variables}


@pytest.mark.parametrize("head", age_heads.NAMES)
def test_every_head_outputs_years(head):
    model = make(age_head=head, task="age", min_age=20, max_age=60, initial_age=33)
    outputs = models.training_model(model)(inputs())
    if head == "regression":
        assert "age_logits" not in outputs
    else:
        decoded = age_heads.decode(outputs["age_logits"], head, 20, 60)
        np.testing.assert_allclose(outputs["age_output"], decoded, rtol=1e-6)
    np.testing.assert_allclose(outputs["age_output"], 33, atol=5)
    loss_fn = losses.build(
        losses.LossConfig(task="age", age_head=head, min_age=20, max_age=60)
    )
    with tf.GradientTape() as tape:
        network = models.training_model(model)
        label = {"age": tf.constant([20.0, 30.0, 40.0, 60.0])}
        loss = tf.reduce_sum(loss_fn(network(inputs()), label)["loss"])
    for weight, gradient in zip(
        model.trainable_variables,
        tape.gradient(loss, model.trainable_variables),
        strict=True,
    ):
        assert gradient is not None and np.all(np.isfinite(gradient)), weight.path


def test_the_age_branch_takes_the_gender():
    model = make()
    before = [np.asarray(v) for v in model(inputs())]
    layer = model.get_layer("gender_logits")
    layer.set_weights([0 * layer.get_weights()[0], layer.get_weights()[1] + 9])
    age, gender = (np.asarray(v) for v in model(inputs()))
    np.testing.assert_allclose(gender, 1, atol=1e-3)
    assert np.all(np.abs(age - before[0]) > 1e-5)


def test_dropout_acts_in_training_only():
    model = make()
    first, second = (models.training_model(model)(inputs()) for _ in range(2))
    np.testing.assert_array_equal(first["age_output"], second["age_output"])
    rates = {
        layer.name: layer.rate
        for layer in model.layers
        if isinstance(layer, keras.layers.Dropout)
    }
    assert rates == {"gender_dropout": 0.2, "age_dropout": 0.4}


def test_normalisation_is_chosen_and_recorded(weights_file, caplog):
    def resolved(**values):
        config = models.ModelConfig(backbone="MobileNet", **values)
        return networks._without_auto(config).normalization

    assert resolved(weights="none", mean=MEAN) == "original"
    assert resolved(weights="imagenet", mean=MEAN) == "backbone"
    assert resolved(mean=MEAN, normalization="original") == "original"
    with caplog.at_level("INFO"):
        assert resolved(weights="FILE") == "original"
    assert "the mean is not known" in caplog.text
    model = make("MobileNet", weights=weights_file, mean=MEAN)
    assert models.info(model)["normalization"] == "backbone"
    with pytest.raises(errors.UsageError, match="needs the channel means"):
        backbones.input_conversion("MobileNet", "backbone", None)
    with pytest.raises(errors.UsageError, match="--normalization=backbone"):
        make("small_cnn", normalization="backbone", mean=MEAN)


def statistics(model):
    return [
        np.asarray(w)
        for layer in backbones.backbone_of(model).layers
        if isinstance(layer, keras.layers.BatchNormalization)
        for w in (layer.moving_mean, layer.moving_variance)
    ]


def test_stages_of_a_pretrained_backbone():
    config = models.ModelConfig(
        backbone="MobileNetV2", weights="FILE", image_size=SIZE, mean=MEAN
    )
    model = models.build_model(config, load_weights=False)
    backbone = backbones.backbone_of(model)
    own = sum(w.shape.num_elements() for w in model.trainable_weights)

    warmup = models.set_trainable(model, "warmup", 4)
    assert not backbone.trainable_weights
    in_heads = sum(w.shape.num_elements() for w in model.trainable_weights)
    assert warmup.parameters == in_heads < own
    assert "MobileNetV2 is frozen" in warmup.description
    before = statistics(model)
    models.training_model(model)(inputs(), training=True)
    for a, b in zip(before, statistics(model), strict=True):
        np.testing.assert_array_equal(a, b)

    tuning = models.set_trainable(model, "tuning")
    trainable = {
        layer.name for layer in backbone.layers if layer.trainable and layer.weights
    }
    top = {layer.name for layer in backbone.layers[-4:] if layer.weights}
    assert trainable == top and top == {"block_16_project_BN", "Conv_1", "Conv_1_bn"}
    assert "top 4 of 154 layers" in tuning.description
    assert tuning.parameters > warmup.parameters
    # Frozen statistics stay, those of the top move.
    models.training_model(model)(inputs(), training=True)
    moved = [
        not np.array_equal(a, b) for a, b in zip(before, statistics(model), strict=True)
    ]
    assert not any(moved[:-4]) and all(moved[-4:])

    all_layers = models.set_trainable(model, "tuning", -1)
    assert all_layers.parameters == own
    assert models.set_trainable(model, "tuning", 0).parameters == in_heads
    assert models.set_trainable(model, "tuning", 9999).parameters == own


@pytest.mark.parametrize("stage", models.STAGES)
@pytest.mark.parametrize("backbone", ["small_cnn", "VGG16"])
def test_a_backbone_without_pretrained_weights_trains_whole(stage, backbone):
    model = make(backbone, weights="imagenet" if "small" in backbone else "none")
    got = models.set_trainable(model, stage)
    assert all(layer.trainable for layer in backbones.backbone_of(model).layers)
    assert "nothing in it is pre-trained" in got.description
    told = models.set_trainable(model, stage, 0)
    assert "is frozen" in told.description and told.parameters < got.parameters


def test_unknown_stages_are_refused():
    model = make()
    with pytest.raises(errors.UsageError, match="--stage"):
        models.set_trainable(model, "recipe")
    with pytest.raises(errors.UsageError, match="--trainable_layers"):
        models.set_trainable(model, "tuning", -2)


def foreign(**names):
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.GlobalAveragePooling2D()(image)
    return keras.Model(
        image, [keras.layers.Dense(1, name=name)(x) for name in names.values()]
    )


def test_foreign_models():
    model = foreign(a="age_output")
    assert models.info(model) == {}
    assert list(models.training_model(model)(inputs())) == ["age_output"]
    models.training_model(model)
    assert models.set_trainable(model, "warmup").parameters == 4
    with pytest.raises(errors.UsageError, match="this one has years"):
        models.training_model(foreign(a="years"))
    dictionary = keras.Model(
        model.input, {"gender_output": model.output, "other": model.output}
    )
    assert list(models.training_model(dictionary)(inputs())) == ["gender_output"]


@pytest.mark.parametrize(
    "policy, backbone, size",
    [
        ("float32", "MobileNetV2", 32),
        ("mixed_bfloat16", "MobileNetV2", 32),
        ("mixed_float16", "small_cnn", 16),
        *(
            pytest.param(policy, name, 75, marks=pytest.mark.slow)
            for name in ("VGG19", "ResNet50", "InceptionV3", "EfficientNetB0")
            for policy in ("float32", "mixed_bfloat16")
        ),
    ],
)
def test_a_step_trains(policy, backbone, size):
    model = make(backbone, policy=policy, weights="none", image_size=size)
    network = models.training_model(model)
    loss_fn = losses.build(losses.LossConfig())
    label = {"age": tf.constant([20.0, 30.0]), "gender": tf.constant([0, 1])}
    with tf.GradientTape() as tape:
        outputs = network(inputs(2, size), training=True)
        loss = tf.reduce_mean(loss_fn(outputs, label)["loss"])
    gradients = tape.gradient(loss, model.trainable_variables)
    assert np.isfinite(loss) and len(gradients) == len(model.trainable_variables)
    # Variables and their gradients stay float32 under every policy.
    assert all(g is not None and g.dtype == tf.float32 for g in gradients)


@pytest.mark.parametrize("head", age_heads.NAMES)
def test_operations_are_known_to_tensorflow_1_15(head):
    known = tf1_compatibility.known_operations()
    model = make("small_cnn_no_bn" if head == "corn" else "small_cnn", age_head=head)
    call = tf.function(lambda x: model(x, training=False), autograph=False)
    graph = call.get_concrete_function(
        tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32)
    ).graph
    # What freezing itself takes out.
    used = {op.type for op in graph.get_operations()} - {"ReadVariableOp"}
    assert used <= set(known), used - set(known)


@pytest.mark.parametrize(
    "values, text",
    [
        ({"backbone": "vgg19"}, "nearest: VGG19"),
        ({"backbone": "ResNet51"}, "nearest: ResNet"),
        ({"backbone": "InceptionV3", "weights": "none"}, "at least 75 pixels"),
        ({"backbone": "small_cnn", "image_size": 8}, "at least 16 pixels"),
        ({"image_size": 0}, "--image_size"),
        ({"task": "both"}, "--task takes one of"),
        ({"min_age": 50, "max_age": 50}, "min_age=50 must be below max_age=50"),
        ({"age_dropout": 1.0}, "--age_dropout"),
        ({"mean": (1.0, 2.0)}, "R, G and B"),
    ],
)
def test_wrong_configs_are_refused(values, text):
    with pytest.raises(errors.UsageError, match=text):
        make(**values)


@pytest.mark.latest
def test_small_cnn_learns():
    """Drawn faces; in seconds, and far better than a constant."""
    faces = list(drawn_faces.faces(320, seed=1))
    pixels = np.stack(
        [
            codec.resize(drawn_faces.draw(face, 1), 48).astype(np.float32)
            for face in faces
        ]
    )
    mean = pixels.mean((0, 1, 2))
    x = tf.constant((pixels - mean) / 127.5)
    age = np.array([face.age for face in faces], np.float32)
    gender = np.array([face.female for face in faces], np.int32)
    keras.utils.set_random_seed(1)
    model = make(image_size=48, initial_age=float(age[:256].mean()))
    network = models.training_model(model)
    loss_fn = losses.build(losses.LossConfig(gender_weight=20.0))
    optimizer = keras.optimizers.Adam(2e-3)
    optimizer.build(network.trainable_variables)

    @tf.function
    def step(rows):
        label = {"age": tf.gather(age, rows), "gender": tf.gather(gender, rows)}
        with tf.GradientTape() as tape:
            outputs = network(tf.gather(x, rows), training=True)
            loss = tf.reduce_mean(loss_fn(outputs, label)["loss"])
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply_gradients(
            zip(gradients, network.trainable_variables, strict=True)
        )

    rng = np.random.default_rng(0)
    for _ in range(14):
        for rows in rng.permutation(256).reshape(-1, 32):
            step(tf.constant(rows))
    predicted_age, probability = (np.asarray(v)[:, 0] for v in model(x[256:]))
    accuracy = ((probability >= 0.5) == (gender[256:] > 0)).mean()
    error = np.abs(predicted_age - age[256:]).mean()
    constant = np.abs(np.median(age[:256]) - age[256:]).mean()
    assert accuracy > 0.85
    assert error < 0.75 * constant


def test_a_sequential_model_of_the_callers_own():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Flatten(),
            layers.Dense(1, activation="sigmoid", name="gender_output"),
        ]
    )
    network = models.training_model(model)
    assert set(network(np.zeros((2, 8, 8, 3), np.float32))) == {"gender_output"}
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1, name="age")])
    with pytest.raises(errors.UsageError, match="this one has age"):
        models.training_model(model)
