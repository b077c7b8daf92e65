"""What keys say: photos, groups, and numbers that only look like photos."""

from __future__ import annotations

import pytest

from afad_tfdata.storage import image_keys


@pytest.mark.parametrize(
    ("key", "photo"),
    [
        ("15/111/1032-0.jpg", "1032"),
        ("15/111/1032-11.JPEG", "1032"),
        ("1032-0.jpg", "1032"),
        # No photo id: other data sets' names, and names that only look alike.
        ("15/111/image_0001.png", None),
        ("15/111/1032.jpg", None),
        ("15/111/a1032-0.jpg", None),
        ("15/1032-0.jpg/x.jpg", None),
    ],
)
def test_photo_id(key, photo):
    assert image_keys.photo_id(key) == photo


def test_group_is_the_photo_or_the_key():
    assert image_keys.group_key("1/111/7-0.jpg", "photo") == image_keys.group_key(
        "2/112/7-3.jpg", "photo"
    )
    assert image_keys.group_key("1/111/7-0.jpg", "image") == "1/111/7-0.jpg"
    # The same file name in two folders stays two groups where there is no photo id.
    assert image_keys.group_key("1/111/a.png", "photo") != image_keys.group_key(
        "2/111/a.png", "photo"
    )


def _faces(names, ages=20):
    """Photo ids and labels of so many images, whose names have two numbers."""
    photos, columns = [], ([], [])
    for i, (age, gender, index) in enumerate(
        (age, gender, index)
        for age in range(ages)
        for gender in (0, 1)
        for index in range(12)
    ):
        values = {"age": age, "gender": gender, "index": index, "i": i}
        photos.append(image_keys.photo_id(f"{age}/{gender}/{names.format(**values)}"))
        columns[0].append(age)
        columns[1].append(gender)
    return photos, columns


@pytest.mark.parametrize(
    ("names", "untrusted"),
    [
        ("{i}-0.jpg", ()),
        ("{i}-{index}.jpg", ()),
        ("face-{index}.jpg", ()),
        ("{age}-{i}.jpg", ("*",)),  # 24 faces each.
        ("{gender}-{i}.jpg", ("*",)),
        ("1-{i}.jpg", ("*",)),
        ("{index}-{i}.jpg", ("*",)),  # Numbers that begin again in each folder.
        ("{index}-{age}.jpg", ("*",)),
    ],
)
def test_numbers_that_are_no_photos(names, untrusted):
    assert image_keys.untrusted_photos(*_faces(names)) == untrusted


def test_few_faces_whose_number_is_their_age():
    photos = [str(age) for age in range(20) for _ in range(3)]
    ages = [int(photo) for photo in photos]
    assert image_keys.untrusted_photos(photos, [ages]) == ("*",)
    # The same groups under mixed ages may be photos of three faces.
    mixed = [i % 7 for i in range(60)]
    assert image_keys.untrusted_photos(photos, [mixed]) == ()


def test_one_large_group_among_photos():
    photos = [str(1000 + i // 2) for i in range(300)]
    ages = [20 + i % 9 for i in range(400)]
    assert image_keys.untrusted_photos([*photos, *["7"] * 12], [ages[:312]]) == ()
    assert image_keys.untrusted_photos([*photos, *["7"] * 25], [ages[:325]]) == ("7",)
    assert image_keys.group_key("7-1.jpg", "photo", ("7",)) == "7-1.jpg"
    assert image_keys.group_key("8-1.jpg", "photo", ("7",)) == "photo:8"
    assert image_keys.group_key("8-1.jpg", "photo", ("*",)) == "8-1.jpg"


def test_a_rare_age_may_be_one_photo():
    photos = [str(i) for i in range(50)] + ["99"] * 4
    ages = [20 + i % 5 for i in range(50)] + [72] * 4
    assert image_keys.untrusted_photos(photos, [ages]) == ()
