"""Decoding and resizing: both libraries alike, and as a viewer shows it."""

from __future__ import annotations

import errno
import io
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from afad_tfdata.common import errors
from afad_tfdata.images import codec
from tests import bad_files
from tests.writing import data_sets

pytest.importorskip("cv2")


@pytest.fixture
def plain(monkeypatch):
    """The library that works without the fast extra."""
    monkeypatch.setattr(codec, "_png_library", codec._PillowLibrary)


def _faces(sample_tree, count=12):
    import pathlib

    return [p.read_bytes() for p in sorted(pathlib.Path(sample_tree).rglob("*.jpg"))][
        :count
    ]


@pytest.mark.latest
def test_both_libraries_decode_to_the_same_bits(sample_tree, monkeypatch):
    for data in _faces(sample_tree):
        fast = codec.decode(data)
        with monkeypatch.context() as context:
            context.setattr(codec, "_png_library", codec._PillowLibrary)
            slow = codec.decode(data)
        np.testing.assert_array_equal(fast, slow)
        assert fast.dtype == np.uint8 and fast.shape[2] == 3


def _verdict(look, data):
    """The size an image is said to have, or why it cannot be used."""
    try:
        return look(data)
    except codec.ImageError as error:
        return str(error)


@pytest.mark.parametrize(
    "how", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}]
)
def test_check_whole_refuses_what_decode_refuses(how, sample_tree):
    """Damage of every kind: bits, bytes, holes, a missing end, bytes between."""
    rng = np.random.default_rng(1)
    whole = []
    for data in _faces(sample_tree, 4):
        out = io.BytesIO()
        Image.open(io.BytesIO(data)).save(out, "JPEG", **how)
        whole.append(out.getvalue())
    refused = 0
    for trial in range(300):
        data = bytearray(whole[trial % len(whole)])
        at, kind = int(rng.integers(2, len(data))), trial % 5
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at] = 0xFF
        elif kind == 2:
            del data[at : at + int(rng.integers(1, 40))]
        elif kind == 3:
            del data[at:]
        else:
            data[at:at] = rng.bytes(int(rng.integers(1, 40)))
        damaged = bytes(data)
        decoded = _verdict(lambda d: codec.decode(d).shape[:2], damaged)
        checked = _verdict(
            lambda d: codec.check_whole(d, codec.read_header(d)), damaged
        )
        assert checked == decoded, (trial, at)
        refused += isinstance(decoded, str)
    assert refused > 100


@pytest.mark.parametrize("size", [24, 150])
def test_both_libraries_resize_to_the_same_pixels(size, sample_tree, monkeypatch):
    for data in _faces(sample_tree, 6):
        image = codec.decode(data)
        fast = codec.resize(image, size)
        with monkeypatch.context() as context:
            context.setattr(codec, "_png_library", codec._PillowLibrary)
            slow = codec.resize(image, size)
        np.testing.assert_array_equal(fast, slow)


@pytest.mark.parametrize("size", [1, 24, 47, 64])
def test_both_libraries_average_to_the_same_pixels(size, sample_tree, monkeypatch):
    for data in _faces(sample_tree, 6):
        image = codec.decode(data)
        fast = codec.resize(image, size, antialias=True)
        with monkeypatch.context() as context:
            context.setattr(codec, "_png_library", codec._PillowLibrary)
            slow = codec.resize(image, size, antialias=True)
        np.testing.assert_array_equal(fast, slow)


def test_averaging_a_large_photo_takes_little_memory(monkeypatch):
    monkeypatch.setattr(codec, "_png_library", codec._PillowLibrary)
    photo = np.random.default_rng(0).integers(0, 256, (2000, 3000, 3), np.uint8)
    tracemalloc.start()
    try:
        codec.resize(photo, 150, antialias=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * photo.nbytes  # The whole photo in float32 is four times as much.


def _png(mode, **options):
    """A PNG of 9 x 7 random pixels in one of Pillow's modes; ``RGB16`` and ``tRNS``."""
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (7, 9, 4), np.uint8)
    pixels[..., 3] = 255
    rgb = Image.fromarray(pixels[..., :3])
    buffer = io.BytesIO()
    if mode == "RGB16":
        header = struct.pack(">IIBBBBB", 9, 7, 16, 2, 0, 0, 0)
        rows = rng.integers(0, 65536, (7, 27)).astype(">u2")
        lines = b"".join(b"\0" + row.tobytes() for row in rows)
        chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(body))
            + kind
            + body
            + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks
        )
    if mode == "I;16":
        gray = rng.integers(0, 65536, (7, 9)).astype(np.uint16)
        Image.fromarray(gray).save(buffer, "PNG")
    elif mode == "P":
        rgb.quantize(11).save(buffer, "PNG", **options)
    elif mode in ("LA", "RGBA"):
        Image.fromarray(pixels).convert(mode).save(buffer, "PNG", **options)
    else:
        rgb.convert(mode).save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "mode, options",
    [
        *((mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "RGB16")),
        ("P", {"transparency": bytes([255] * 11)}),
        ("RGB", {"transparency": (1, 2, 3)}),
        ("P", {"bits": 4}),
    ],
)
def test_both_libraries_decode_every_kind_of_png(mode, options, monkeypatch):
    data = _png(mode, **options)
    fast = codec.decode(data)
    monkeypatch.setattr(codec, "_png_library", codec._PillowLibrary)
    slow = codec.decode(data)
    assert fast.shape == slow.shape == (7, 9, 3)
    np.testing.assert_array_equal(fast, slow)


def test_both_libraries_refuse_the_same_damaged_pngs(monkeypatch):
    """Damage whose checksums are right: only the decoder can see it."""
    whole = _png("RGB")
    at = whole.index(b"IDAT") - 4
    length = int.from_bytes(whole[at : at + 4], "big")
    for trial in range(60):
        rng = np.random.default_rng(trial)
        body = bytearray(whole[at + 8 : at + 8 + length])
        body[int(rng.integers(len(body)))] ^= 1 << int(rng.integers(8))
        content = b"IDAT" + bytes(body)
        damaged = (
            whole[: at + 4]
            + content
            + struct.pack(">I", zlib.crc32(content))
            + whole[at + 12 + length :]
        )
        fast = _verdict(lambda d: codec.decode(d).tolist(), damaged)
        with monkeypatch.context() as context:
            context.setattr(codec, "_png_library", codec._PillowLibrary)
            slow = _verdict(lambda d: codec.decode(d).tolist(), damaged)
        assert isinstance(fast, str) == isinstance(slow, str), (trial, fast, slow)


def test_resize_fills_the_given_array(sample_tree):
    image = codec.decode(_faces(sample_tree, 1)[0])
    out = np.zeros((30, 30, 3), np.uint8)
    assert codec.resize(image, 30, out=out) is out
    np.testing.assert_array_equal(out, codec.resize(image, 30))
    small = np.full((30, 30, 3), 7, np.uint8)
    codec.resize(small, 30, out=out)
    assert (out == 7).all()


def test_antialiasing_averages():
    board = np.zeros((64, 64, 3), np.uint8)
    board[::2, ::2] = board[1::2, 1::2] = 255
    small = codec.resize(board, 16, antialias=True)
    assert np.abs(small.astype(int) - 127).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_images_are_shown_upright(orientation):
    """Pillow's transpose by the same tag is the reference."""
    from PIL import ImageOps

    pixels = np.kron(
        np.random.default_rng(0).integers(0, 255, (3, 4, 3), np.uint8),
        np.ones((16, 16, 1), np.uint8),
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, exif=exif, subsampling=0)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(buffer)).convert("RGB"))
    decoded = codec.decode(buffer.getvalue())
    assert decoded.shape == wanted.shape
    assert np.abs(decoded.astype(int) - wanted.astype(int)).max() <= 2


@pytest.mark.parametrize("library", ["fast", "plain"])
def test_odd_files_are_refused_or_shown(library, request):
    if library == "plain":
        request.getfixturevalue("plain")
    for path, (content, outcome) in bad_files.contents().items():
        if "20/11" not in path or outcome in (bad_files.SKIPPED, bad_files.WRITTEN):
            continue
        if not path.endswith((".jpg", ".png")) or "deep" in path:
            continue
        if outcome.startswith("folder"):
            continue
        with pytest.raises(codec.ImageError) as caught:
            header = codec.read_header(content)
            codec.check_header(header, as_stored=True)
            codec.decode(content, header)
        assert str(caught.value).startswith(outcome), path


def test_gray_progressive_and_16_bit_are_shown_as_a_viewer_does():
    contents = {
        path.split("/")[-1]: data for path, (data, _) in bad_files.contents().items()
    }
    for name in ("gray.jpg", "progressive.jpg", "opaque.png", "png-inside.jpg"):
        wanted = np.asarray(Image.open(io.BytesIO(contents[name])).convert("RGB"))
        decoded = codec.decode(contents[name])
        assert np.abs(decoded.astype(int) - wanted.astype(int)).max() <= 2, name
    sixteen = codec.decode(contents["sixteen.png"])
    assert sixteen.dtype == np.uint8
    assert set(np.unique(sixteen)) == {1}  # 0x0102 of 65535 is 1 of 255.


def test_channel_sums_are_exact(sample_tree, monkeypatch):
    image = codec.decode(_faces(sample_tree, 1)[0])
    wanted = tuple(image.reshape(-1, 3).sum(0, dtype=np.int64).tolist())
    assert codec.channel_sums(image) == wanted
    monkeypatch.setattr(codec, "_png_library", codec._PillowLibrary)
    assert codec.channel_sums(image) == wanted


def test_header_is_read_without_decoding(sample_tree):
    for data in _faces(sample_tree, 5):
        header = codec.read_header(data)
        assert (header.height, header.width) == codec.decode(data).shape[:2]
        assert header.format == "jpeg" and header.channels == 3 and header.bits == 8


@pytest.mark.parametrize(
    "height, width, reason",
    [
        (65_535, 1, None),
        (1, 65_536, "too long a side: 1 x 65536"),
        (0, 9, "no pixels: 0 x 9"),
        (1000, 1000, None),
        (1000, 1001, "too many pixels: 1000 x 1001, the limit is 1000000"),
    ],
)
def test_limits_of_dimensions(height, width, reason):
    header = codec.ImageHeader("png", height, width, 3)
    if reason is None:
        codec.check_header(header, as_stored=True, max_pixels=1_000_000)
        return
    with pytest.raises(codec.ImageError) as caught:
        codec.check_header(header, as_stored=True, max_pixels=1_000_000)
    assert str(caught.value) == reason


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_orientation_of_a_png(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    assert codec.read_header(buffer.getvalue()).orientation == orientation
    turned = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    np.testing.assert_array_equal(
        codec.decode(buffer.getvalue()), np.rot90(pixels, turned)
    )


@pytest.mark.parametrize("library", ["fast", "plain"])
def test_a_turned_png_is_turned_by_our_own_code(library, monkeypatch):
    if library == "plain":
        monkeypatch.setattr(codec, "_png_library", codec._PillowLibrary)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = data_sets.face_file(1, "PNG", exif=exif)
    header = codec.read_header(data)
    assert (header.height, header.width, header.orientation) == (20, 30, 6)
    assert codec.decode(data, header).shape == (30, 20, 3)
    with pytest.raises(codec.ImageError, match="EXIF orientation 6"):
        codec.check_header(header, as_stored=True)


def test_an_opencv_that_cannot_be_loaded_is_an_error(monkeypatch, tmp_path):
    """Pillow in its place would give pixels that differ by one level, silently."""
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    with pytest.raises(errors.UsageError, match=r"be loaded \(libGL.so.1: not found"):
        codec._png_library.__wrapped__()
    # Without a module of that name, it is not installed.
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert isinstance(codec._png_library.__wrapped__(), codec._PillowLibrary)


def test_a_gray_png_with_a_transparent_level_is_rejected():
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 9, np.uint8)).save(buffer, "PNG", transparency=9)
    with pytest.raises(codec.ImageError, match="one gray is transparent"):
        codec.read_header(buffer.getvalue())


def _tiff(order, kind, orientation, before=0):
    """EXIF with one orientation, in an integer type of TIFF, and other tags first."""
    form = {1: "B3x", 3: "H2x", 4: "I", 8: "h2x", 9: "i"}[kind]
    sign = {"II": "<", "MM": ">"}[order]
    entries = b"".join(struct.pack(f"{sign}HHII", i, 4, 1, 7) for i in range(before))
    entries += struct.pack(f"{sign}HHI{form}", 0x0112, kind, 1, orientation)
    head = order.encode() + struct.pack(f"{sign}HIH", 42, 8, before + 1)
    return head + entries + bytes(4)


def _with_exif(exif, place):
    """An image of 20 x 30 with EXIF in one of the places where programs write it."""
    if place.startswith("jpeg"):
        data = data_sets.face_file(1)
        body = b"Exif\0\0" + exif
        segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
        if place == "jpeg":
            return data[:2] + segment + data[2:]
        at = data.index(b"\xff\xda")  # Behind the frame header, before the scan.
        return data[:at] + segment + data[at:]
    data = data_sets.face_file(1, "PNG")
    text = b"\nexif\n%8d\n" % (len(exif) + 6) + (b"Exif\0\0" + exif).hex().encode()
    kind, body = {
        "png": (b"eXIf", exif),
        "png with a header": (b"eXIf", b"Exif\0\0" + exif),
        "zTXt": (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)),
        "tEXt": (b"tEXt", b"Raw profile type APP1\0" + text),
        "iTXt": (b"iTXt", b"Raw profile type exif\0\0\0\0\0" + text),
        "packed iTXt": (
            b"iTXt",
            b"Raw profile type exif\0\1\0en\0\0" + zlib.compress(text),
        ),
        "png, at the end": (b"eXIf", exif),
    }[place]
    at = data.index(b"IEND") - 4 if place.endswith("end") else 33
    crc = struct.pack(">I", zlib.crc32(kind + body))
    return data[:at] + struct.pack(">I", len(body)) + kind + body + crc + data[at:]


_PLACES = ("jpeg", "jpeg, behind the frame header", "png", "png with a header")
_PLACES += ("zTXt", "tEXt", "iTXt", "packed iTXt", "png, at the end")


@pytest.mark.parametrize("place", _PLACES)
@pytest.mark.parametrize("order", ["II", "MM"])
def test_the_orientation_is_found_wherever_it_is(place, order):
    """Sideways faces were once stored without a word."""
    for kind, orientation, before in ((3, 6, 0), (4, 8, 3), (1, 3, 1), (9, 5, 0)):
        data = _with_exif(_tiff(order, kind, orientation, before), place)
        header = codec.read_header(data)
        assert header.orientation == orientation, kind
        with pytest.raises(codec.ImageError, match=f"orientation {orientation}"):
            codec.check_header(header, as_stored=True)
        turned = (30, 20) if orientation >= 5 else (20, 30)
        assert codec.decode(data).shape[:2] == turned
        assert codec.decode(data, stored=True).shape[:2] == (20, 30)
    assert codec.read_header(_with_exif(_tiff(order, 4, 9), place)).orientation == 1
    for cut in range(30):
        data = _with_exif(_tiff(order, 4, 6)[:cut], place)
        assert codec.read_header(data).orientation in (1, 6)


@pytest.mark.parametrize("marker", [0xC3, 0xC5, 0xC9, 0xCA, 0xCB])
def test_jpegs_that_only_some_decoders_read(marker):
    """Newer versions of libjpeg-turbo read lossless JPEGs, and TensorFlow does not."""
    data = data_sets.face_file(1)
    at = data.index(b"\xff\xc0")
    data = data[: at + 1] + bytes([marker]) + data[at + 2 :]
    with pytest.raises(codec.ImageError, match="lossless, hierarchical or arithmetic"):
        codec.check_header(codec.read_header(data), as_stored=False)


def _png_of(raw, *, color=2, bits=8, interlaced=0, extra=b"", size=(4, 3)):
    def chunk(kind, body):
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    head = struct.pack(">IIBBBBB", *size, bits, color, 0, 0, interlaced)
    pixels = raw if isinstance(raw, list) else [zlib.compress(raw)]
    chunks = [chunk(b"IHDR", head), extra]
    chunks += [chunk(b"IDAT", piece) for piece in pixels]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


_ROW = b"\0" + bytes(range(12))
_WHOLE = zlib.compress(_ROW * 3)
_UNKNOWN = struct.pack(">I", 0) + b"ABCD" + struct.pack(">I", zlib.crc32(b"ABCD"))


@pytest.mark.parametrize(
    "data",
    [
        _png_of(_ROW * 2),
        _png_of(_ROW * 2 + _ROW[:5]),
        _png_of(_ROW * 4),
        _png_of(b"\x05" + _ROW[1:] + _ROW * 2),
        _png_of([_WHOLE[:-4]]),
        _png_of([_WHOLE[:-4] + b"abcd"]),
        _png_of([b"", b""]),
        _png_of(_ROW * 3, bits=16),
        _png_of(_ROW * 3, bits=3),
        _png_of(_ROW * 3, color=5),
        _png_of(_ROW * 3, color=3),
        _png_of(_ROW * 3, interlaced=1),
        _png_of(_ROW * 3, interlaced=2),
        _png_of(_ROW * 3, extra=_UNKNOWN),
    ],
)
def test_what_only_one_library_shows_is_refused_with_both(data, monkeypatch):
    """Pillow shows a PNG with missing rows, half of it black."""
    for library in (codec._png_library(), codec._PillowLibrary()):
        monkeypatch.setattr(codec, "_png_library", lambda library=library: library)
        with pytest.raises(codec.ImageError):
            header = codec.read_header(data)
            codec.check_header(header, as_stored=True)
            codec.check_whole(data, header)


def test_what_is_accepted_is_the_same_with_each_library_and_in_tensorflow(monkeypatch):
    """Changed bytes, with right checksums: each is refused or read by everything."""
    import tensorflow as tf

    jpegs = [data_sets.face_file(1, size=(11, 9), **o) for o in _JPEG_OPTIONS]
    pngs = [_png(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    accepted = 0
    for trial in range(300):
        rng = np.random.default_rng(trial)
        kind = (jpegs, pngs)[trial % 2]
        data = bytearray(kind[int(rng.integers(len(kind)))])
        at = int(rng.integers(2, len(data)))
        if rng.integers(2):
            data[at] ^= 1 << int(rng.integers(8))
        else:
            del data[at : at + int(rng.integers(1, 5))]
        changed = bytes(data) if kind is jpegs else _with_right_checksums(bytes(data))
        fast = _stored(changed)
        with monkeypatch.context() as context:
            context.setattr(codec, "_png_library", codec._PillowLibrary)
            slow = _stored(changed)
        if isinstance(fast, str) or isinstance(slow, str):
            assert isinstance(fast, str) and isinstance(slow, str), (trial, fast, slow)
            continue
        accepted += 1
        decode = tf.io.decode_jpeg if kind is jpegs else tf.io.decode_png
        more = {"dct_method": "INTEGER_ACCURATE"} if kind is jpegs else {}
        read = decode(changed, channels=3, **more).numpy()
        np.testing.assert_array_equal(fast, slow)
        np.testing.assert_array_equal(fast, read)
    assert accepted > 20


_JPEG_OPTIONS = ({}, {"progressive": True}, {"keep_rgb": True}, {"subsampling": 0})


def _stored(data):
    """The pixels of a record with this image, or the reason why it is refused."""
    try:
        header = codec.read_header(data)
        codec.check_header(header, as_stored=True)
        codec.check_whole(data, header)
        return codec.decode(data, header)
    except codec.ImageError as error:
        return str(error)


def _with_right_checksums(png):
    fixed, position = png[:8], 8
    while position + 12 <= len(png):
        length = int.from_bytes(png[position : position + 4], "big")
        body = png[position + 4 : position + 8 + length]
        fixed += png[position : position + 4] + body
        fixed += struct.pack(">I", zlib.crc32(body))
        position += 12 + length
    return fixed


def test_too_many_open_files_are_no_fault_of_the_image(monkeypatch, tmp_path):
    def refuse(*arguments):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(codec.os, "open", refuse)
    with pytest.raises(errors.UsageError, match="Too many open files; raise the limit"):
        codec.read_file(tmp_path / "a.jpg")


@pytest.mark.parametrize("name", ["cv2.py", "cv2/__init__.py", "cv2/notes.txt"])
def test_a_users_own_cv2_is_named(name, monkeypatch, tmp_path):
    (tmp_path / "cv2").mkdir()
    (tmp_path / name).write_text("")
    if name == "cv2/notes.txt":  # A package without __init__ loses to OpenCV.
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
    else:
        monkeypatch.syspath_prepend(tmp_path)
    if name == "cv2.py":
        (tmp_path / "cv2").rmdir()
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    with pytest.raises(errors.UsageError, match="is not OpenCV: give it another name"):
        codec._png_library.__wrapped__()
