"""Networks: names, normalisation, weights, freezing, precision, saving, learning."""

import json
import zipfile

import h5py
import numpy as np
import pytest

from afad_tfdata import models
from afad_tfdata.common import errors
from afad_tfdata.common.lazy import keras, tf
from afad_tfdata.freezing import graphdef
from afad_tfdata.images import codec, drawn_faces
from afad_tfdata.models import age_heads, backbones, losses, networks, saved
from afad_tfdata.storage import schema

MEAN = (132.5, 111.0, 101.25)
SIZE = 32


def make(backbone="small_cnn", policy="float32", **values):
    values.setdefault("image_size", SIZE)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return models.build_model(models.ModelConfig(backbone=backbone, **values))
    finally:
        keras.config.set_dtype_policy(before)


def inputs(n=4, size=SIZE, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (n, size, size, 3)).astype(np.float32)


def shaken(model, seed=0):
    """Weights of the right shapes that no initialiser draws."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.01, 0.1, w.shape) for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def donor():
    """A backbone whose weights stand for trained ones."""
    return shaken(backbones.build("MobileNet", SIZE, raw_input=True))


@pytest.fixture(scope="module")
def weights_file(donor, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("weights") / "donor.weights.h5")
    donor.save_weights(path)
    return path


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
def test_every_head_says_years_inside_the_model(head):
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


def test_joint_network_feeds_the_gender_to_the_age():
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


@pytest.mark.parametrize(
    "name, module",
    [
        ("VGG19", "vgg19"),  # BGR without scaling
        ("ResNet101", "resnet"),
        ("ResNet50V2", "resnet_v2"),  # [-1, 1]
        ("InceptionV3", "inception_v3"),
        ("MobileNet", "mobilenet"),
        ("NASNetMobile", "nasnet"),
        ("DenseNet121", "densenet"),  # mean and deviation by channel
        ("EfficientNetV2B0", "efficientnet_v2"),  # inside: raw pixels
        ("ConvNeXtTiny", "convnext"),
        ("MobileNetV3Small", "mobilenet_v3"),
    ],
)
def test_conversion_equals_keras_preprocessing(name, module):
    from afad_tfdata.models import keras_layers

    raw = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3)).astype(np.float32)
    expected = getattr(keras.applications, module).preprocess_input(raw.copy())
    conversion = backbones.conversion(name, "backbone", MEAN)
    got = keras_layers.InputConversion(**conversion._asdict())((raw - MEAN) / 127.5)
    np.testing.assert_allclose(got, expected, atol=2e-4)
    plain = backbones.conversion(name, "original", None)
    root = inputs()
    got = keras_layers.InputConversion(**plain._asdict())(root)
    np.testing.assert_array_equal(got, root)


@pytest.mark.parametrize("normalization", ["original", "backbone"])
def test_efficientnet_normalises_as_its_weights_from_imagenet_do(normalization):
    """Whatever the file holds for the layer inside, as with Keras' own correction."""
    backbone = backbones.build("EfficientNetB0", SIZE, raw_input=True)
    inner = next(
        layer
        for layer in backbone.layers
        if isinstance(layer, keras.layers.Normalization)
    )
    values = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 0)
    inner.set_weights([np.array(v) for v in values])
    inner.finalize_state()
    backbones._neutralise(backbone)
    raw = np.random.default_rng(0).uniform(0, 255, (1, SIZE, SIZE, 3)).astype("f4")
    conversion = backbones.conversion("EfficientNetB0", normalization, MEAN)
    from afad_tfdata.models import keras_layers

    root = (raw - np.float32(MEAN)) / np.float32(127.5)
    seen = keras.Model(backbone.input, inner.output)(
        keras_layers.InputConversion(**conversion._asdict())(root)
    )
    expected = root
    if normalization == "backbone":
        expected = keras.applications.imagenet_utils.preprocess_input(
            raw.copy(), mode="torch"
        )
    np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_a_keras_that_normalises_differently_is_refused(monkeypatch):
    backbone = backbones.build("EfficientNetB0", SIZE, raw_input=True)
    layer = next(
        layer for layer in backbone.layers if isinstance(layer, keras.layers.Rescaling)
    )
    monkeypatch.setattr(layer, "scale", 1.0)
    with pytest.raises(errors.UsageError, match="another normalisation inside"):
        backbones._neutralise(backbone)

    def mixing(pixels):
        return pixels.mean(axis=-1, keepdims=True) + 0 * pixels

    monkeypatch.setattr(keras.applications.mobilenet, "preprocess_input", mixing)
    with pytest.raises(errors.UsageError, match="does not say what MobileNet expects"):
        backbones.conversion("MobileNet", "backbone", MEAN)


def test_normalisation_is_chosen_and_recorded(weights_file, caplog):
    def resolved(**values):
        config = models.ModelConfig(backbone="MobileNet", **values)
        return networks._resolve(config).normalization

    assert resolved(weights="none", mean=MEAN) == "original"
    assert resolved(weights="imagenet", mean=MEAN) == "backbone"
    assert resolved(mean=MEAN, normalization="original") == "original"
    with caplog.at_level("INFO"):
        assert resolved(weights="FILE") == "original"
    assert "the mean is not known" in caplog.text
    model = make("MobileNet", weights=weights_file, mean=MEAN)
    assert models.info(model)["normalization"] == "backbone"
    with pytest.raises(errors.UsageError, match="needs the channel means"):
        backbones.conversion("MobileNet", "backbone", None)
    with pytest.raises(errors.UsageError, match="--normalization=backbone"):
        make("small_cnn", normalization="backbone", mean=MEAN)


def legacy_file(backbone, path):
    """The older form of weights, as the files to download have it."""
    whole = str(path) + ".model.h5"
    backbone.save(whole)
    with h5py.File(whole, "r") as source, h5py.File(path, "w") as target:
        group = source["model_weights"]
        for name in group:
            source.copy(group[name], target, name)
        for name, value in group.attrs.items():
            target.attrs[name] = value


@pytest.mark.parametrize("form", ["weights", "legacy", "model_h5", "keras", "ours"])
def test_weights_from_a_file(form, donor, weights_file, tmp_path):
    path = str(tmp_path / "backbone.h5")
    if form == "weights":
        path = weights_file
    elif form == "legacy":
        legacy_file(donor, path)
    elif form == "model_h5":
        donor.save(path)
    else:
        path = str(tmp_path / "backbone.keras")
        whole = donor
        if form == "ours":
            whole = make("MobileNet", weights=weights_file, task="age")
        whole.save(path)
    backbone = backbones.build("MobileNet", SIZE, raw_input=True)
    backbones.load_file(backbone, "MobileNet", path)
    for got, expected in zip(backbone.get_weights(), donor.get_weights(), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_weights_that_do_not_fit(donor, weights_file, tmp_path):
    def load(backbone, name, path):
        backbones.load_file(backbone, name, str(path))

    with pytest.raises(errors.UsageError, match="no such file"):
        load(donor, "MobileNet", tmp_path / "nowhere.h5")
    vgg = backbones.build("VGG16", SIZE, raw_input=True)
    with pytest.raises(errors.UsageError, match="does not fit VGG16.*notop"):
        load(vgg, "VGG16", weights_file)
    small = backbones.build("small_cnn", SIZE, raw_input=True)
    whole = make(task="age")
    whole.save_weights(tmp_path / "whole.weights.h5")
    with pytest.raises(errors.UsageError, match="does not fit small_cnn"):
        load(small, "small_cnn", tmp_path / "whole.weights.h5")
    (tmp_path / "text.h5").write_text("not weights")
    with pytest.raises(errors.UsageError, match="neither HDF5"):
        load(vgg, "VGG16", tmp_path / "text.h5")
    linked = str(tmp_path / "linked.weights.h5")
    backbones.build("VGG16", SIZE, raw_input=True).save_weights(linked)
    with h5py.File(linked, "a") as file:
        file["more"] = h5py.ExternalLink("/etc/hostname", "/x")
    with pytest.raises(errors.UsageError, match="link to /etc/hostname"):
        load(vgg, "VGG16", linked)
    whole.save(tmp_path / "small.keras")
    with pytest.raises(errors.UsageError, match="is a model without a part"):
        load(vgg, "VGG16", tmp_path / "small.keras")


def test_imagenet_without_a_network_says_what_to_bring(monkeypatch, tmp_path):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # Nobody listens there.
    monkeypatch.setattr(
        keras.applications, "MobileNetV3Small", _without_cache(str(tmp_path))
    )
    with pytest.raises(errors.UsageError) as caught:
        make("MobileNetV3Small", weights="imagenet", mean=MEAN)
    message = str(caught.value)
    assert "\n" not in message
    assert "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5" in message
    assert "--weights=FILE" in message and "--weights=none" in message


def _without_cache(directory):
    """The constructor on a machine where nothing was downloaded before."""
    import functools

    original = keras.applications.MobileNetV3Small

    @functools.wraps(original)
    def constructor(*args, weights=None, **kwargs):
        if weights == "imagenet":
            keras.utils.get_file(
                "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
                "https://storage.googleapis.com/tensorflow/keras-applications/"
                "mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
                cache_dir=directory,
            )
        return original(*args, weights=weights, **kwargs)

    return constructor


def statistics(model):
    return [
        np.asarray(w)
        for layer in saved.backbone_of(model).layers
        if isinstance(layer, keras.layers.BatchNormalization)
        for w in (layer.moving_mean, layer.moving_variance)
    ]


def test_stages_of_a_pretrained_backbone():
    config = models.ModelConfig(
        backbone="MobileNetV2", weights="FILE", image_size=SIZE, mean=MEAN
    )
    model = models.build_model(config, load_weights=False)
    backbone = saved.backbone_of(model)
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
def test_nothing_pretrained_trains_whole(stage, backbone):
    model = make(backbone, weights="imagenet" if "small" in backbone else "none")
    got = models.set_trainable(model, stage)
    assert all(layer.trainable for layer in saved.backbone_of(model).layers)
    assert "nothing in it is pre-trained" in got.description
    told = models.set_trainable(model, stage, 0)
    assert "is frozen" in told.description and told.parameters < got.parameters


def test_stages_refuse():
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


@pytest.mark.latest
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("head", ["regression", "coral", "corn"])
def test_saving_keeps_all(head, suffix, tmp_path):
    model = make("small_cnn_no_bn", age_head=head, mean=MEAN)
    models.set_trainable(model, "tuning", 2)
    path = str(tmp_path / f"model{suffix}")
    model.save(path)
    loaded = models.load(path)
    assert models.info(loaded) == models.info(model)
    assert models.info(loaded)["mean"] == list(MEAN)
    for a, b in zip(model(inputs()), loaded(inputs()), strict=True):
        np.testing.assert_array_equal(a, b)
    rebuilt = models.ModelConfig(**models.info(loaded))
    assert models.info(models.build_model(rebuilt)) == models.info(model)
    assert set(models.training_model(loaded)(inputs())) == set(
        models.training_model(model)(inputs())
    )


def test_loading_refuses(tmp_path):
    image = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(image, keras.layers.Lambda(lambda x: x * 2)(image))
    for suffix in (".keras", ".h5"):
        path = str(tmp_path / f"lambda{suffix}")
        model.save(path)
        with pytest.raises(errors.UsageError, match="--unsafe_load"):
            models.load(path)
    loaded = models.load(str(tmp_path / "lambda.keras"), unsafe=True)
    np.testing.assert_allclose(loaded(inputs()), 2 * inputs())
    with pytest.raises(errors.UsageError, match="no model at"):
        models.load(str(tmp_path / "nowhere.keras"))
    path = str(tmp_path / "only.weights.h5")
    make().save_weights(path)
    with pytest.raises(errors.UsageError, match="weights only"):
        models.load(path)
    (tmp_path / "text.keras").write_text("not a model")
    with pytest.raises(errors.UsageError, match="neither"):
        models.load(str(tmp_path / "text.keras"))
    path = str(tmp_path / "damaged.h5")
    make().save(path)
    with h5py.File(path, "a") as file:
        text = file.attrs["model_config"]
        file.attrs["model_config"] = text.replace("{", "[", 1)
    with pytest.raises(errors.DataError, match="is damaged.*not JSON"):
        models.load(path)
    with zipfile.ZipFile(tmp_path / "torn.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Functional"}))
    with pytest.raises(errors.UsageError, match="cannot be loaded"):
        models.load(str(tmp_path / "torn.keras"))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("head", ["regression", "coral"])
def test_mixed_precision_and_its_float32_twin(policy, head, tmp_path):
    model = make(policy=policy, age_head=head)
    backbone = saved.backbone_of(model)
    assert backbone.get_layer("block2_conv").compute_dtype == policy[6:]
    assert model.get_layer("input_conversion").compute_dtype == "float32"
    model.save(tmp_path / "mixed.keras")
    twin = models.rebuild_float32(models.load(str(tmp_path / "mixed.keras")))
    assert {layer.dtype_policy.name for layer in twin._flatten_layers()} == {"float32"}
    assert models.info(twin) == models.info(model)
    for a, b in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(model(inputs()), twin(inputs()), strict=True):
        assert a.dtype == tf.float32
        np.testing.assert_allclose(a, b, rtol=0.05, atol=0.02)


def test_a_layer_that_stays_in_16_bits_is_refused(monkeypatch):
    model = make(policy="mixed_bfloat16")
    monkeypatch.setattr(saved, "_in_float32", lambda values: values)
    with pytest.raises(errors.UsageError, match="in 16 bits and not in float32"):
        models.rebuild_float32(model)


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


def test_no_bn_sees_each_example_alone():
    model = make("small_cnn_no_bn", age_dropout=0.0, gender_dropout=0.0)
    assert not any("bn" in layer.name for layer in saved.backbone_of(model).layers)
    batch = model(inputs(), training=True)
    for i in range(4):
        alone = model(inputs()[i : i + 1], training=True)
        for whole, one in zip(batch, alone, strict=True):
            np.testing.assert_allclose(whole[i], one[0], rtol=1e-5)


@pytest.mark.parametrize("head", age_heads.NAMES)
def test_operations_are_known_to_tensorflow_1_15(head):
    known = graphdef.tf1_table()
    model = make("small_cnn_no_bn" if head == "corn" else "small_cnn", age_head=head)
    call = tf.function(lambda x: model(x, training=False), autograph=False)
    graph = call.get_concrete_function(
        tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32)
    ).graph
    # What freezing itself takes out.
    used = {op.type for op in graph.get_operations()} - {"ReadVariableOp"}
    assert used <= set(known), used - set(known)


def test_transfer_takes_what_has_a_place():
    source, target = shaken(make(age_head="corn")), make(age_head="regression")
    taken, left = models.transfer(source, target)
    assert sorted(left) == ["age_output/bias", "age_output/kernel"]
    assert taken == len(target.weights) - 2
    for a, b in zip(
        saved.backbone_of(source).get_weights(),
        saved.backbone_of(target).get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    other = make("small_cnn_no_bn")
    taken, left = models.transfer(source, other)
    assert any("block1_conv" in path for path in left) and taken


@pytest.mark.parametrize(
    "values, text",
    [
        ({"backbone": "vgg19"}, "nearest: VGG19"),
        ({"backbone": "ResNet51"}, "nearest: ResNet"),
        ({"backbone": "InceptionV3", "weights": "none"}, "at least 75 pixels"),
        ({"backbone": "small_cnn", "image_size": 8}, "at least 16 pixels"),
        ({"image_size": 0}, "--image_size"),
        ({"task": "both"}, "--task takes one of"),
        ({"min_age": 50, "max_age": 50}, "--min_age"),
        ({"age_dropout": 1.0}, "--age_dropout"),
        ({"mean": (1.0, 2.0)}, "R, G and B"),
    ],
)
def test_configs_refuse(values, text):
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


@pytest.mark.slow
@pytest.mark.parametrize("name", backbones.names())
def test_every_backbone_builds_at_an_odd_size(name):
    model = make(name, weights="none", image_size=97, pooling="avg", mean=MEAN)
    assert model.inputs[0].shape == (None, 97, 97, 3)
    assert model.output_names == ["age_output", "gender_output"]
    keras.backend.clear_session()


def test_a_sequential_model_of_ones_own():
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
