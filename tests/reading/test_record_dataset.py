"""Records for programs without TensorFlow: the same examples in the same order."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys

import numpy as np
import pytest

from afad_tfdata import input_fn, records
from afad_tfdata.common import errors
from afad_tfdata.reading import order


@pytest.mark.parametrize(
    "size", [1, 2, 3, 97, 5342, 65535, 65536, 65537, 165_501, 262_145, 10_000_019]
)
@pytest.mark.parametrize("seed", [0, 1, -5, (1 << 63) - 1])
def test_numpy_gives_the_order_of_tensorflow(size, seed):
    shuffle = order.Order(size, seed)
    positions = np.random.default_rng(size).integers(0, 3 * size, 300)
    found = shuffle.records_by_numpy(positions)
    assert found.dtype == np.int64
    assert (found == shuffle.records(positions).numpy()).all()


def test_numpy_gives_the_balanced_order_of_tensorflow():
    labels = np.random.default_rng(1).integers(0, 5, 300) ** 2
    shuffle = order.Order(300, 7, order.groups_by_label(labels))
    positions = np.arange(2000)
    assert (
        shuffle.records_by_numpy(positions) == shuffle.records(positions).numpy()
    ).all()


@pytest.fixture(scope="module", params=["tfrecord", "hdf5"])
def directory(request, sample_tree, tmp_path_factory) -> str:
    target = str(tmp_path_factory.mktemp("open") / "records")
    records.write_records(
        records.WriteConfig(
            data_dir=sample_tree,
            output_dir=target,
            format=request.param,
            image_size=40,
            num_shards=3,
            num_workers=1,
        )
    )
    return target


def test_jpegs_are_decoded_as_in_the_pipeline(sample_records):
    for decode in ("accurate", "fast"):
        config = input_fn.InputConfig(
            records_dir=sample_records, engine="mapped", decode=decode
        )
        features, _ = next(iter(input_fn.eval_input_fn(config, "test")))
        faces = input_fn.open_records(sample_records, "test", decode=decode)
        found = pickle.loads(pickle.dumps(faces))[range(8)]["image"]
        assert (found == features["image"][:8].numpy()).all()
    with pytest.raises(errors.UsageError, match="accurate, fast; got 'quick'"):
        input_fn.open_records(sample_records, "test", decode="quick")


def test_batches_are_those_of_the_pipeline(directory):
    config = input_fn.InputConfig(
        records_dir=directory, engine="mapped", global_batch_size=16, seed=3
    )
    faces = input_fn.open_records(directory, "train")
    assert len(faces) == input_fn.num_examples(config, "train")
    batches = input_fn.Batches(len(faces), 16, seed=3, start_step=5, num_steps=20)
    assert len(batches) == 20 and len(list(batches)) == 20
    dataset = input_fn.train_input_fn(config, start_step=5).take(20)
    for numbers, (features, labels) in zip(
        batches, dataset.as_numpy_iterator(), strict=True
    ):
        found = faces[numbers]
        assert (found["image"] == features["image"]).all()
        assert (found["age"] == labels["age"]).all()
        assert (found["gender"] == labels["gender"]).all()
        assert found["image"].dtype == np.uint8 and len(set(found["key"])) > 1


def test_examples_have_their_keys(directory):
    faces = input_fn.open_records(directory, "train")
    for number in (0, len(faces) - 1, -1):
        example = faces[number]
        age, code, _ = example["key"].split("/")
        assert example["age"] == int(age)
        assert example["gender"] == {"111": 0, "112": 1}[code]
        assert example["image"].shape == (40, 40, 3)
    with pytest.raises(IndexError, match="is not a record of"):
        faces[len(faces)]
    examples = faces.__getitems__([4, 2])
    assert [e["key"] for e in examples] == [faces[4]["key"], faces[2]["key"]]
    assert "key" not in input_fn.open_records(directory, "test", keys=False)[0]


def image_sum(faces, number, queue):
    queue.put(int(faces[number]["image"].sum()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_the_same(directory, method):
    faces = input_fn.open_records(directory, "train")
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    worker = context.Process(target=image_sum, args=(faces, 5, queue))
    worker.start()
    assert queue.get(timeout=60) == int(faces[5]["image"].sum())
    worker.join()
    copy = pickle.loads(pickle.dumps(faces))
    assert (copy[5]["image"] == faces[5]["image"]).all()


def test_tensorflow_is_not_imported(directory):
    program = (
        "import sys; from afad_tfdata import input_fn\n"
        f"faces = input_fn.open_records({directory!r}, 'train')\n"
        "batches = iter(input_fn.Batches(len(faces), 8))\n"
        "assert faces[next(batches)]['image'].shape == (8, 40, 40, 3)\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_loader_of_pytorch(directory):
    torch = pytest.importorskip("torch")
    faces = input_fn.open_records(directory, "train")
    batches = input_fn.Batches(len(faces), 16, num_steps=9)
    loader = torch.utils.data.DataLoader(
        faces, batch_size=None, sampler=batches, num_workers=2
    )
    for numbers, batch in zip(batches, loader, strict=True):
        assert (batch["image"].numpy() == faces[numbers]["image"]).all()
    for batch in torch.utils.data.DataLoader(faces, batch_size=16, num_workers=2):
        assert batch["image"].shape[1:] == (40, 40, 3)


def test_what_cannot_be_opened_is_one_line(directory, tmp_path):
    with pytest.raises(errors.UsageError, match="no examples in split 'none'"):
        input_fn.open_records(directory, "none")
    with pytest.raises(errors.UsageError, match="needs local files"):
        input_fn.open_records("s3://bucket/records", "train")
    with pytest.raises(errors.UsageError, match="global_batch_size must be 1 or more"):
        input_fn.Batches(10, 0)
    with pytest.raises(TypeError, match="endless"):
        len(input_fn.Batches(10, 2))
