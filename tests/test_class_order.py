"""A model's output means the same gender on every way from a run to a prediction.

For both orders of the class names, every form in which people pass on a model is
evaluated, frozen, used for predictions and trained on, with data sets of both orders.
Each combination is right, which means that it names the same gender for every face, or
is refused in one line.
"""

import os
import shutil

import numpy as np
import pytest

from afad_tfdata import evaluation, freeze, models, prediction, records, trainer
from afad_tfdata.common import errors
from afad_tfdata.common.lazy_imports import keras, tf
from afad_tfdata.freezing import frozen_model_facts, model_source
from afad_tfdata.models import facts
from afad_tfdata.training import checkpoints, initial_weights, run_dir

SIZE = 16
ORDERS = {"male_first": ("male", "female"), "female_first": ("female", "male")}
CODES = {
    "male_first": "111:male,112:female",
    "female_first": "112:female,111:male",
}
# Forms in which a model is passed on.  Keras' own functions wrote the last two, so that
# nothing in them says what the outputs mean.
FORMS = ("run", "keras", "checkpoint", "h5", "saved_model", "graph")
NAMELESS = ("plain_keras", "plain_h5")


@pytest.fixture(scope="module")
def data(sample_tree, tmp_path_factory):
    """The same faces in data sets of both orders, by order."""
    result = {}
    for order, codes in CODES.items():
        result[order] = str(tmp_path_factory.mktemp("data") / order)
        records.write_records(
            records.WriteConfig(
                data_dir=sample_tree,
                output_dir=result[order],
                gender_codes=codes,
                image_size=SIZE,
                image_encoding="raw",
                num_shards=1,
                num_workers=1,
            )
        )
    return result


class Handed:
    """A run on one order of classes, and every form of its model.

    Attributes:
      order: Of the data set that it was trained on.
      paths: By form; all but the run are in directories of their own.
      accuracy: Of the run on its own data.
    """

    def __init__(self, order, data, directory):
        self.order = order
        run = str(directory / "run")
        trainer.train(
            trainer.TrainConfig(
                records_dir=data[order],
                run_dir=run,
                backbone="small_cnn",
                age_head="regression",  # As in the networks that begin with it.
                hidden_units=8,
                global_batch_size=32,
                steps_per_epoch=6,
                epochs=1,
                stage="tuning",
                augment="none",
                devices="cpu",
                tensorboard=False,
            )
        )
        self.paths = {"run": run}
        for form, name in (("keras", "face.keras"), ("h5", "face.h5")):
            self.paths[form] = str(directory / form / name)
            os.mkdir(directory / form)
        best = os.path.join(run, "best.keras")
        shutil.copy(best, self.paths["keras"])
        model = models.load(best)
        models.save(model, self.paths["h5"])
        for form, name in (("plain_keras", "face.keras"), ("plain_h5", "face.h5")):
            os.mkdir(directory / form)
            self.paths[form] = str(directory / form / name)
            keras.saving.load_model(best).save(self.paths[form])
        os.mkdir(directory / "checkpoint")
        kept = os.path.join(run, "checkpoints")
        newest = checkpoints.path_of(kept, checkpoints.steps(kept)[-1])
        self.paths["checkpoint"] = shutil.copy(newest, directory / "checkpoint")
        self.accuracy = evaluate(run, data[order], directory / "own")["accuracy"]

    def freeze(self, directory):
        """Adds the frozen graph and the SavedModel, which take a while to write."""
        if "graph" not in self.paths:
            result = freeze.freeze(
                freeze.FreezeConfig(
                    run_dir=self.paths["run"],
                    output_dir=str(directory),
                    output_name="face",
                    saved_model=True,
                )
            )
            self.paths["graph"] = result.path
            self.paths["saved_model"] = str(directory / "alone")
            shutil.copytree(directory / "face_saved_model", directory / "alone")
        return self


@pytest.fixture(scope="module", params=list(ORDERS))
def handed(request, data, tmp_path_factory):
    return Handed(request.param, data, tmp_path_factory.mktemp(request.param))


def evaluate(path, records_dir, output_dir, **more):
    name = "run_dir" if os.path.basename(path) == "run" else "model"
    return evaluation.evaluate(
        evaluation.EvaluateConfig(
            **{name: path},
            records_dir=records_dir,
            output_dir=str(output_dir),
            devices="cpu",
            bootstrap_samples=0,
            pictures=False,
            **more,
        )
    )


def freeze_and_predict(path, records_dir, output_dir, faces, **more):
    """The gender of each face, by the name that the frozen graph gives it."""
    result = freeze.freeze(
        freeze.FreezeConfig(
            model=path,
            records_dir=records_dir,
            output_dir=str(output_dir),
            output_name="face",
            **more,
        )
    )
    return predict(result.path, faces)


def predicted(graph, faces):
    return prediction.predict(prediction.PredictConfig(graph=graph), [faces]).rows


def predict(graph, faces):
    return [row["gender"] for row in predicted(graph, faces)]


def started_from(path, order, **more):
    """Age and probability of female for noise, of a new model with these weights."""
    keras.utils.set_random_seed(3)
    model = models.build_model(
        models.ModelConfig(
            backbone="small_cnn",
            hidden_units=8,
            image_size=SIZE,
            min_age=15,
            max_age=60,
        )
    )
    facts.attach(model, facts.Facts(models.info(model), ORDERS[order]))
    strategy = tf.distribute.get_strategy()
    initial_weights.copy_from(path, model, strategy, **more)
    return ages_and_females(model, ORDERS[order])


def ages_and_females(model, names):
    noise = np.random.default_rng(0).uniform(-1, 1, (5, SIZE, SIZE, 3))
    age, gender = (np.ravel(v) for v in model(noise.astype(np.float32)))
    return age, gender if names[1] == "female" else 1 - gender


def assert_started_right(handed, path, order, **more):
    found = started_from(path, order, **more)
    source = models.load(handed.paths["keras"])
    for value, expected in zip(
        found, ages_and_females(source, ORDERS[handed.order]), strict=True
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def refused(call, *arguments, **more):
    """Whether a call is refused; the refusal is one line."""
    try:
        call(*arguments, **more)
    except errors.AfadError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


# The part that is always tried.


@pytest.mark.parametrize("order", ORDERS)
def test_a_copied_model_is_evaluated_on_data_of_either_order(
    handed, data, order, tmp_path
):
    result = evaluate(handed.paths["keras"], data[order], tmp_path)
    assert result["accuracy"] == pytest.approx(handed.accuracy)
    assert set(result["by_gender"]) == {"male", "female"}
    majority = result["constant"]["predicts"]["gender"]
    own = evaluate(handed.paths["run"], data[handed.order], tmp_path / "own")
    assert majority == own["constant"]["predicts"]["gender"]
    for gender, row in result["by_gender"].items():
        assert row["accuracy"] == own["by_gender"][gender]["accuracy"]


def test_where_nothing_says_the_order_it_is_asked_for(handed, data, tmp_path):
    names, records_dir = ORDERS[handed.order], data[handed.order]
    for form in NAMELESS:
        path = handed.paths[form]
        text = refused(evaluate, path, records_dir, tmp_path)
        assert "--class_names=male,female if" in text
        result = evaluate(path, records_dir, tmp_path / form, class_names=names)
        assert result["accuracy"] == pytest.approx(handed.accuracy)
        with pytest.raises(errors.UsageError, match="--class_names=male,female if"):
            frozen_model_facts.collect(model_source.open_source(path), records_dir)
        with pytest.raises(errors.UsageError, match="--init_class_names=male,female"):
            started_from(path, handed.order)
        assert_started_right(handed, path, handed.order, class_names=names)


@pytest.mark.parametrize("form", ["run", "keras", "checkpoint", "h5"])
def test_no_data_set_writes_its_order_over_the_models(handed, data, form):
    for records_dir in ("", *data.values()):
        source = model_source.open_source(handed.paths[form])
        known = frozen_model_facts.collect(source, records_dir)
        assert known.class_names == ORDERS[handed.order]
        assert known.mean == pytest.approx(known.stored.mean)
    with pytest.raises(errors.UsageError, match="contradicts"):
        frozen_model_facts.collect(source, class_names=ORDERS[handed.order][::-1])


@pytest.mark.parametrize("form", ["keras", "checkpoint"])
@pytest.mark.parametrize("order", ORDERS)
def test_training_that_starts_from_either_order_knows_the_genders(handed, form, order):
    if form == "checkpoint":  # It is not best.keras, but comes from the same training.
        age, female = started_from(handed.paths[form], order)
        again = started_from(handed.paths[form], handed.order)
        np.testing.assert_allclose(age, again[0], rtol=1e-4)
        np.testing.assert_allclose(female, again[1], atol=1e-5)
        return
    assert_started_right(handed, handed.paths[form], order)


def test_the_run_of_another_network_says_nothing_about_a_model(
    handed, tmp_path, monkeypatch
):
    """Such as a model of version 0.1.0 that is copied into the directory of a run."""
    monkeypatch.setattr(facts, "read_file", lambda path: facts.Facts({"task": "age"}))
    run = handed.paths["run"]
    shutil.copy(os.path.join(run, run_dir.CONFIG_NAME), tmp_path)
    path = shutil.copy(handed.paths["keras"], tmp_path)
    source = model_source.open_source(str(path))
    assert source.run and not source.facts.class_names
    with pytest.raises(errors.UsageError, match="--class_names"):
        frozen_model_facts.collect(source)


def test_own_data_do_not_get_names_that_nobody_gave(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, SIZE, SIZE, 3)).astype(np.uint8)
    labels = {"age": np.full(8, 30, np.float32), "gender": np.arange(8) % 2}
    own = tf.data.Dataset.from_tensor_slices(({"image": images}, labels)).batch(8)
    trainer.train(
        trainer.TrainConfig(
            run_dir=str(tmp_path / "run"),
            backbone="small_cnn",
            hidden_units=4,
            image_size=SIZE,
            global_batch_size=8,
            epochs=1,
            stage="tuning",
            augment="none",
            devices="cpu",
            tensorboard=False,
        ),
        train_dataset=own,
    )
    source = model_source.open_source(str(tmp_path / "run"))
    assert source.facts.class_names == ()
    assert source.facts.mean == (127.5,) * 3
    with pytest.raises(errors.UsageError, match="--class_names"):
        frozen_model_facts.collect(source)


def test_a_model_in_memory_is_not_trained_on_the_other_order(handed, data, tmp_path):
    other = next(order for order in ORDERS if order != handed.order)
    config = trainer.TrainConfig(
        records_dir=data[other],
        run_dir=str(tmp_path / "run"),
        global_batch_size=8,
        devices="cpu",
    )
    with pytest.raises(errors.UsageError, match="the other way round"):
        trainer.train(config, model=models.load(handed.paths["keras"]))


def test_a_copied_checkpoint_needs_no_run(handed):
    source = model_source.open_source(handed.paths["checkpoint"])
    assert not source.run and source.labels == ("age", "gender")
    assert source.facts.class_names == ORDERS[handed.order]
    stored = run_dir.facts_of_run(run_dir.read_config(handed.paths["run"]))
    assert source.facts == stored


@pytest.mark.slow
def test_a_frozen_graph_and_a_saved_model_say_it_too(
    handed, data, sample_tree, tmp_path_factory
):
    handed.freeze(tmp_path_factory.mktemp("frozen"))
    rows = predicted(handed.paths["graph"], sample_tree)
    names = ORDERS[handed.order]
    assert {r["gender"] == names[r["probability"] >= 0.5] for r in rows} == {True}
    model = models.load(handed.paths["keras"])
    source = model_source.open_source(handed.paths["saved_model"])
    assert source.facts.class_names == ORDERS[handed.order]
    assert source.facts.mean == facts.of(model).mean
    known = frozen_model_facts.collect(source, data["male_first"])
    assert known.class_names == ORDERS[handed.order]


# The whole product.


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_right_or_refused(
    handed, data, form, order, sample_tree, tmp_path_factory, tmp_path
):
    handed.freeze(tmp_path_factory.mktemp("frozen"))
    path, records_dir = handed.paths[form], data[order]
    expected = predict(handed.paths["graph"], sample_tree)

    results = []
    text = refused(
        lambda: results.append(evaluate(path, records_dir, tmp_path / "evaluated"))
    )
    assert results or text
    for result in results:
        assert result["accuracy"] == pytest.approx(handed.accuracy)
    if form in ("run", "keras", "h5"):
        assert results

    frozen = []
    text = refused(
        lambda: frozen.append(
            freeze_and_predict(path, records_dir, tmp_path / "frozen", sample_tree)
        )
    )
    assert frozen or form == "graph", text
    for genders in frozen:
        assert genders == expected

    if form in ("saved_model", "graph"):
        assert refused(started_from, path, order)
    else:
        assert_started_right(handed, path, order)


@pytest.mark.slow
@pytest.mark.parametrize("form", NAMELESS)
def test_a_nameless_model_is_frozen_with_the_flag_only(
    handed, data, form, sample_tree, tmp_path_factory, tmp_path
):
    handed.freeze(tmp_path_factory.mktemp("frozen"))
    for records_dir in ("", *data.values()):
        text = refused(
            freeze_and_predict, handed.paths[form], records_dir, tmp_path, sample_tree
        )
        assert "--class_names" in text
    genders = freeze_and_predict(
        handed.paths[form],
        data[handed.order],
        tmp_path / "named",
        sample_tree,
        class_names=ORDERS[handed.order],
    )
    assert genders == predict(handed.paths["graph"], sample_tree)
