"""Accuracy on faces, for augmentations, age heads, training loops and the recipe.

    python benchmarks/faces.py --part=augment|heads|loop [--tree=FOLDER] [--seeds=3]

``--tree`` is a folder of faces in folders like AFAD's; by default, faces are drawn.
They are written once, as records of a small size, and everything is trained on the same
training split and tested on the same test split.

augment
    One small network for both labels, trained long enough to overfit, with and without
    augmentation for the same number of epochs.  The intervals are of the paired
    bootstrap over the test faces.
heads
    Every age head on the pooled features of one network, with several seeds, compared
    with the constant predictor.
loop
    ``model.fit`` and this package's loop on the same network, batches, rates and
    epochs, and the recipe on that network, with several seeds.
"""

import argparse
import datetime
import os
import platform
import tempfile
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from afad_tfdata import input_fn, models, records, trainer
from afad_tfdata.images import drawn_faces, tensor_preprocessing
from afad_tfdata.metrics import bootstrap, prediction_metrics
from afad_tfdata.models import age_heads as heads
from afad_tfdata.models import losses, networks
from afad_tfdata.storage import schema
from afad_tfdata.training import optimizers, replica_predictor, step

BATCH = 64
# The network of the part `loop`, and its learning rates.
CHANNELS = (32, 64, 128, 256)
FIRST_EPOCHS, LAST_EPOCHS = 8, 3
RATE, LAST_RATE = 1e-3, 1e-4
FLIP = "none,flip=true"
GENDER_WEIGHT = 10.0  # A cross-entropy is that much smaller than an error in years.

Columns = dict[str, np.ndarray]


def main() -> None:
    """Writes the records, and prints the table of a part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, required=True, help="what is compared")
    parser.add_argument(
        "--tree", default="", help="folder with AGE/GENDER/IMAGE; default: drawn faces"
    )
    parser.add_argument(
        "--faces", type=int, default=3000, help="how many faces are drawn"
    )
    parser.add_argument(
        "--size", type=int, default=48, help="side of the images in pixels"
    )
    parser.add_argument(
        "--test_fraction", type=float, default=0.2, help="share of the test split"
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="how often heads and loops are trained"
    )
    parser.add_argument(
        "--epochs", type=int, default=40, help="epochs of the parts augment and heads"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of TensorFlow")
    parser.add_argument(
        "--augment",
        nargs="+",
        default=["default"],
        help="values of afad-train's --augment; heads and loop take the first",
    )
    parser.add_argument(
        "--work_dir",
        default="",
        help="directory that is kept; a second call continues in it",
    )
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        place = Place(arguments.work_dir or temporary, arguments)
        counts = ", ".join(
            f"{name} {split.num_examples:,}"
            for name, split in place.manifest.splits.items()
        )
        print(
            f"{arguments.part}: {arguments.size} px, {counts}; {arguments.threads}"
            f" threads on {os.cpu_count()} {platform.machine()} cores, TensorFlow"
            f" {tf.__version__}, Keras {keras.__version__}, {datetime.date.today()}",
            flush=True,
        )
        PARTS[arguments.part](arguments, place)


class Place:
    """A directory with the records, and a folder for the runs."""

    def __init__(self, directory: str, arguments: argparse.Namespace) -> None:
        tree = arguments.tree or os.path.join(directory, "drawn")
        if not os.path.isdir(tree):
            drawn_faces.make_sample(
                drawn_faces.SampleConfig(output_dir=tree, num_images=arguments.faces)
            )
        self.directory = directory
        os.makedirs(os.path.join(directory, "runs"), exist_ok=True)
        self.records_dir = os.path.join(directory, "records")
        records.write_records(
            records.WriteConfig(
                data_dir=tree,
                output_dir=self.records_dir,
                image_size=arguments.size,
                image_encoding="raw",
                test_fraction=arguments.test_fraction,
                num_shards=1,
                num_workers=1,
            )
        )
        self.manifest = schema.load_manifest(self.records_dir)
        self.ages = schema.age_range(self.manifest)

    def input(self, **more) -> input_fn.InputConfig:
        """The options with which the records are read."""
        return input_fn.InputConfig(
            records_dir=self.records_dir, global_batch_size=BATCH, **more
        )

    def config(self, name: str, arguments: argparse.Namespace, **more):
        """The options of a training, in a folder of its own."""
        return trainer.TrainConfig(
            records_dir=self.records_dir,
            run_dir=os.path.join(self.directory, "runs", name),
            backbone="small_cnn",
            weights="none",
            recipe="original",  # The trials in the README were run with it.
            global_batch_size=BATCH,
            threads=arguments.threads,
            devices="cpu",
            checkpoint_every=0,
            tensorboard=False,
            **more,
        )

    def predict(self, model: keras.Model, split: str, loss=None) -> Columns:
        """Labels and predictions for a split, in its order."""
        mean = self.manifest.mean_rgb

        def normalize(images):
            return tensor_preprocessing.normalize(images, mean)

        predictor = replica_predictor.Predictor(
            tf.distribute.get_strategy(),
            models.training_model(model),
            loss,
            normalize,
        )
        return predictor.run(input_fn.eval_input_fn(self.input(), split))

    def constant(self, columns: Columns) -> dict[str, float]:
        """The metrics of predicting the training split's median age and majority."""
        return prediction_metrics.of_constant_predictor(
            self.manifest.splits["train"].counts, columns
        )


def augment(arguments: argparse.Namespace, place: Place) -> None:
    """With and without augmentation, for the same number of epochs."""
    loss = losses.build(
        losses.LossConfig(age_loss="mse", min_age=place.ages[0], max_age=place.ages[1])
    )
    tests: dict[str, Columns] = {}
    print(
        "\n| augmentation | training loss | validation loss | training accuracy, MAE"
        " | test accuracy, MAE | difference in accuracy | difference in MAE |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    for augmentation in ("none", *arguments.augment):
        model = trained(arguments, place, augmentation)
        seen = {
            split: place.predict(model, split, loss)
            for split in ("train", "validation", "test")
        }
        tests[augmentation] = seen["test"]
        cells = [
            augmentation,
            *(
                f"{np.mean(seen[split]['loss']):.1f}"
                for split in seen
                if split != "test"
            ),
            *(scored(seen[split]) for split in ("train", "test")),
        ]
        if augmentation == "none":
            cells += ["", ""]
        else:
            between = bootstrap.paired_intervals(seen["test"], tests["none"])
            now, before = map(
                prediction_metrics.evaluate, (seen["test"], tests["none"])
            )
            for name in ("accuracy", "mae"):
                low, high = between[name]
                difference = now[name] - before[name]
                cells.append(f"{difference:+.4f} [{low:+.4f}, {high:+.4f}]")
        print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\nconstant: {scored_constant(place, tests['none'])}")


def age_heads(arguments: argparse.Namespace, place: Place) -> None:
    """Every age head on the features of one network."""
    model = trained(arguments, place, arguments.augment[0])
    # Its output has the name of the ages, so that the same functions read it.
    pooled = keras.Model(
        model.inputs[0], {"age_output": model.get_layer("pooling").output}
    )
    features = {split: features_of(place, pooled, split) for split in ("train", "test")}
    constant = place.constant(features["test"][1])["mae"]
    print(f"\nthe network itself: {scored(place.predict(model, 'test'))}")
    print("\n| age head | MAE | compared with the constant |\n|---|---|---|")
    ways = [("regression", loss) for loss in losses.AGE_LOSSES]
    ways += [(name, "mae") for name in heads.NAMES if name != "regression"]
    for name, loss in ways:
        maes = [
            head_error(place, name, loss, features, seed)
            for seed in range(1, arguments.seeds + 1)
        ]
        title = f"{name}, {loss}" if name == "regression" else name
        print(
            f"| {title} | {np.mean(maes):.3f} +- {np.std(maes, ddof=1):.3f}"
            f" | {np.mean(maes) / constant - 1:+.1%} |",
            flush=True,
        )
    print(f"| constant | {constant:.3f} | |")


def features_of(
    place: Place, pooled: keras.Model, split: str
) -> tuple[np.ndarray, Columns]:
    """The features of a split, float32 ``[n, channels]``, and its labels."""
    mean, rows, labels = place.manifest.mean_rgb, [], []
    run = tf.function(
        lambda images: pooled(
            tensor_preprocessing.normalize(images, mean), training=False
        )
    )
    for batch, label in input_fn.eval_input_fn(place.input(), split):
        mask = batch["mask"].numpy()
        rows.append(run(batch["image"])["age_output"].numpy()[mask])
        labels.append({name: value.numpy()[mask] for name, value in label.items()})
    columns = {
        f"label_{name}": np.concatenate([label[name] for label in labels])
        for name in labels[0]
    }
    return np.concatenate(rows), columns


def head_error(
    place: Place,
    name: str,
    age_loss: str,
    features: dict[str, tuple[np.ndarray, Columns]],
    seed: int,
    epochs: int = 20,
) -> float:
    """The MAE on the test split of an age head that is trained on features."""
    keras.utils.set_random_seed(seed)
    ages = {"min_age": place.ages[0], "max_age": place.ages[1]}
    x, labels = features["train"]
    image = keras.Input(x.shape[1:], name=models.INPUT_NAME)
    settings = models.ModelConfig(
        age_head=name, initial_age=sum(place.ages) / 2, **ages
    )
    network = models.training_model(
        keras.Model(image, networks.age_branch(image, None, settings))
    )
    inner_loop = step.TrainStep(
        tf.distribute.get_strategy(),
        network,
        optimizers.build("adam", momentum=0.9),
        losses.build(
            losses.LossConfig(task="age", age_head=name, age_loss=age_loss, **ages)
        ),
        lambda rows, step, offset: rows,
        step.StepConfig(global_batch_size=BATCH),
    )
    data = tf.data.Dataset.from_tensor_slices(
        ({"image": x}, {"age": labels["label_age"]})
    )
    data = data.shuffle(len(x), seed=seed).repeat().batch(BATCH).prefetch(2)
    iterator, total = iter(data), epochs * len(x) // BATCH
    schedule = optimizers.Schedule("cosine", RATE, total)
    for first in range(0, total, step.MAX_STEPS_PER_CALL):
        last = min(total, first + step.MAX_STEPS_PER_CALL)
        inner_loop.run(iterator, first, [schedule.rate(i) for i in range(first, last)])
    x, labels = features["test"]
    age = network(x, training=False)["age_output"].numpy().ravel()
    return prediction_metrics.evaluate({**labels, "age": age})["mae"]


def loops(arguments: argparse.Namespace, place: Place) -> None:
    """Plain ``model.fit``, this package's loop, and its recipe."""
    ways: dict[str, Callable[[argparse.Namespace, Place, int], keras.Model]] = {
        "model.fit": fitted,
        "loop": looped,
        "recipe": by_recipe,
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    print("\naccuracy and MAE for each seed")
    for seed in range(1, arguments.seeds + 1):
        for name, way in ways.items():
            columns = place.predict(way(arguments, place, seed), "test")
            values = prediction_metrics.evaluate(columns)
            found[name].append((values["accuracy"], values["mae"]))
            print(f"{seed} {name}: {scored(columns)}", flush=True)
    print("\n| training | accuracy | MAE |\n|---|---|---|")
    for name, rows in found.items():
        means = np.mean(rows, axis=0)
        errors = np.std(rows, axis=0, ddof=1) / np.sqrt(len(rows))
        cells = [f"{m:.4f} +- {e:.4f}" for m, e in zip(means, errors, strict=True)]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\nmean and standard error; constant: {scored_constant(place, columns)}")


def network(size: int, ages: tuple[int, int], seed: int) -> keras.Model:
    """A usual Keras network: four blocks, pooling, dropout, one dense layer."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((size, size, 3), name=models.INPUT_NAME)
    x = image
    for channels in CHANNELS:
        x = keras.layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU()(x)
        x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.3)(x)
    middle = keras.initializers.Constant(sum(ages) / 2)
    age = keras.layers.Dense(1, bias_initializer=middle, name="age_output")(x)
    gender = keras.layers.Dense(1, activation="sigmoid", name="gender_output")(x)
    return keras.Model(image, [age, gender])


def fitted(arguments: argparse.Namespace, place: Place, seed: int) -> keras.Model:
    """Trains with ``model.fit`` on this package's batches."""
    path = os.path.join(place.directory, "runs", f"fit-{seed}.keras")
    if os.path.exists(path):
        return models.load(path)
    model = network(arguments.size, place.ages, seed)
    outputs = {name: model.get_layer(name).output for name in model.output_names}
    model = keras.Model(model.inputs, outputs)  # Keyed like the labels.
    model.compile(
        keras.optimizers.Adam(RATE),
        loss={"age_output": "mae", "gender_output": "binary_crossentropy"},
        loss_weights={"age_output": 1.0, "gender_output": GENDER_WEIGHT},
    )
    data = input_fn.train_input_fn(place.input(seed=seed, as_supervised=True))
    rng = tf.random.Generator.from_seed(seed)

    def flip(images, labels):
        mirrored = rng.uniform([BATCH, 1, 1, 1]) < 0.5
        return tf.where(mirrored, images[:, :, ::-1], images), labels

    def rate(epoch: int) -> float:
        return RATE if epoch < FIRST_EPOCHS else LAST_RATE

    model.fit(
        data.map(flip),
        epochs=FIRST_EPOCHS + LAST_EPOCHS,
        steps_per_epoch=round(place.manifest.splits["train"].num_examples / BATCH),
        callbacks=[keras.callbacks.LearningRateScheduler(rate)],
        verbose=0,
    )
    model.save(path)
    return model


def looped(arguments: argparse.Namespace, place: Place, seed: int) -> keras.Model:
    """Trains the same with this package's loop."""
    model = network(arguments.size, place.ages, seed)
    config = place.config(
        f"loop-{seed}",
        arguments,
        **same_loss(seed),
        stage="tuning",
        epochs=FIRST_EPOCHS + LAST_EPOCHS,
        learning_rate=RATE,
        schedule="step",
        decay_epochs=FIRST_EPOCHS,
        decay_factor=LAST_RATE / RATE,
        augment=FLIP,
    )
    return models.load(trainer.train(config, model=model).final_path)


def by_recipe(arguments: argparse.Namespace, place: Place, seed: int) -> keras.Model:
    """Trains by the recipe, with its rates, end and augmentation; its best epoch."""
    model = network(arguments.size, place.ages, seed)
    config = place.config(
        f"recipe-{seed}",
        arguments,
        **same_loss(seed),
        stage="recipe",
        augment=arguments.augment[0],
    )
    result = trainer.train(config, model=model)
    print(f"{seed} recipe: {result.epochs} epochs, best {result.best_epoch}")
    return models.load(result.best_path)


def same_loss(seed: int) -> dict[str, object]:
    """Options that make this package's loss that of `fitted`."""
    return {"seed": seed, "age_loss": "mae", "gender_weight": GENDER_WEIGHT}


def trained(
    arguments: argparse.Namespace, place: Place, augmentation: str
) -> keras.Model:
    """Trains the small network; its weights after the last epoch."""
    config = place.config(
        f"augment-{augmentation}-{arguments.epochs}",
        arguments,
        stage="tuning",
        epochs=arguments.epochs,
        schedule="cosine",
        augment=augmentation,
    )
    return models.load(trainer.train(config).final_path)


def scored(columns: Columns) -> str:
    """Accuracy and MAE."""
    found = prediction_metrics.evaluate(columns)
    return f"{found['accuracy']:.4f}, {found['mae']:.3f}"


def scored_constant(place: Place, columns: Columns) -> str:
    """Accuracy and MAE of the constant predictor."""
    found = place.constant(columns)
    return f"accuracy {found['accuracy']:.4f}, MAE {found['mae']:.3f}"


PARTS = {"augment": augment, "heads": age_heads, "loop": loops}

if __name__ == "__main__":
    main()
