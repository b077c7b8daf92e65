"""Records written by hand are what TensorFlow writes and reads."""

from __future__ import annotations

import hashlib

import pytest

from afad_tfdata.common import errors
from afad_tfdata.storage import schema, tfrecord


def _record(image=b"image bytes" * 40, filename=b"20/111/1-0.jpg"):
    return tfrecord.encode_record(
        image,
        image_format="jpeg",
        height=120,
        width=300,
        filename=filename,
        sha256=hashlib.sha256(image).digest(),
        age=20,
        gender=1,
    )


@pytest.mark.latest
def test_tensorflow_reads_it(tmp_path):
    import tensorflow as tf

    path = tmp_path / "one.tfrecord"
    records = [_record(), _record(b"", b"x" * 300), _record(bytes(100_000))]
    path.write_bytes(b"".join(record.data for record in records))
    data = [x.numpy() for x in tf.data.TFRecordDataset(str(path))]
    example = tf.train.Example.FromString(data[0])
    feature = example.features.feature
    assert feature[schema.IMAGE_ENCODED].bytes_list.value[0] == b"image bytes" * 40
    assert feature[schema.IMAGE_FILENAME].bytes_list.value[0] == b"20/111/1-0.jpg"
    assert feature[schema.IMAGE_HEIGHT].int64_list.value[0] == 120
    assert feature[schema.IMAGE_WIDTH].int64_list.value[0] == 300
    assert feature[schema.LABEL_AGE].int64_list.value[0] == 20
    assert feature[schema.LABEL_GENDER].int64_list.value[0] == 1
    assert len(data[2]) > 100_000


def test_the_image_is_where_the_record_says():
    image = b"\xff\xd8 and so on"
    record = _record(image)
    start = record.image_offset
    assert record.data[start : start + len(image)] == image


def test_round_trip_and_damage():
    record = _record()
    features = tfrecord.parse_example(tfrecord.check_record(record.data))
    assert features[schema.LABEL_AGE] == 20
    for position in range(0, len(record.data), 7):
        damaged = bytearray(record.data)
        damaged[position] ^= 1
        with pytest.raises(tfrecord.RecordError):
            tfrecord.check_record(bytes(damaged))
    with pytest.raises(tfrecord.RecordError, match="cut short"):
        tfrecord.check_record(record.data[:10])


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_the_checksum_is_that_of_the_standard(data, crc):
    # RFC 3720, appendix B.4; TFRecord files rotate it and add a constant.
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert tfrecord.masked_crc32c(data) == masked


@pytest.mark.parametrize("value", [0, 127, 128, 300, (1 << 63) - 1, (1 << 64) - 1])
def test_numbers_of_any_length(value):
    coded = tfrecord._varint(value)
    assert tfrecord._read_varint(b"x" + coded + b"rest", 1) == (value, 1 + len(coded))


def test_numbers_without_an_end():
    assert tfrecord._read_varint(b"\xff" * 9 + b"\x01", 0)[1] == 10
    with pytest.raises(ValueError, match="more than 64 bits"):
        tfrecord._read_varint(b"\xff" * 10 + b"\x01", 0)


def test_frames_are_read_one_by_one_and_a_cut_is_found(tmp_path):
    path = tmp_path / "records"
    frames = [tfrecord.frame(data) for data in (b"first", b"", b"third")]
    path.write_bytes(b"".join(frames))
    found = list(tfrecord.framed_records(str(path)))
    assert [framed for _, framed in found] == frames
    assert [offset for offset, _ in found] == [0, 21, 37]
    assert [tfrecord.check_record(f) for f in frames] == [b"first", b"", b"third"]
    assert tfrecord.unchecked_data(frames[2]) == b"third"
    path.write_bytes(b"".join(frames)[:-1])
    with pytest.raises(errors.DataError, match="record at byte 37 reaches past"):
        list(tfrecord.framed_records(str(path)))
