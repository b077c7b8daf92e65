"""Small folders in the layouts in which data sets of faces are published.

Each function draws the images, writes the lists with the traps of the data set, and
returns the labels that must come out: ``(age, gender, split, group)`` by key, where the
gender is 0 for male and 1 for female.
"""

from __future__ import annotations

import pathlib

import numpy as np

from tests.writing.data_sets import face_file

Labels = dict[str, tuple[int, int, str | None, str | None]]


def _draw(root: pathlib.Path, keys) -> None:
    for number, key in enumerate(keys):
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(face_file(number))


def afad(root: pathlib.Path) -> Labels:
    labels: Labels = {}
    for i in range(8):
        key = f"{20 + i % 3}/{111 + i % 2}/{100 + i // 2}-{i % 2}.jpg"
        labels[key] = (20 + i % 3, i % 2, None, None)
    _draw(root, labels)
    return labels


def utkface(root: pathlib.Path) -> Labels:
    labels: Labels = {
        "25_0_2_20170116174525125.jpg.chip.jpg": (25, 0, None, None),
        "1_1_0_20161219140623097.jpg.chip.jpg": (1, 1, None, None),
        "116_1_4_20170120134921760.jpg.chip.jpg": (116, 1, None, None),
        "part2/24_0_1_20170116220224657 .jpg": (24, 0, None, None),
    }
    lacking = ["61_1_20170109142408075.jpg.chip.jpg", "61_3_20170109150557335.jpg"]
    _draw(root, [*labels, *lacking])
    return labels


def agedb(root: pathlib.Path) -> Labels:
    labels: Labels = {
        "0_MariaCallas_35_f.jpg": (35, 1, None, "MariaCallas"),
        "1_MariaCallas_40_f.jpg": (40, 1, None, "MariaCallas"),
        "2_Jos\u00e9_Ferrer_1_m.jpg": (1, 0, None, "Jos\u00e9_Ferrer"),
        "3_Andre3000_41_m.jpg": (41, 0, None, "Andre3000"),
    }
    _draw(root, labels)
    return labels


def morph(root: pathlib.Path) -> Labels:
    labels: Labels = {
        "Album2/009055_1M54.JPG": (54, 0, None, "9055"),
        "Album2/009055_2M55.JPG": (55, 0, None, "9055"),
        "Album2/321798_03F36.jpg": (36, 1, None, "321798"),
    }
    _draw(root, [*labels, "Album2/004567_0M20.JPG", "Album2/004567_1F21.JPG"])
    return labels


def fairface(root: pathlib.Path) -> Labels:
    head = "file,age,gender,race,service_test\n"
    rows = {
        "train": [("1", "50-59", "Male"), ("2", "3-9", "Female")],
        "val": [("1", "more than 70", "Female"), ("2", "0-2", "Male")],
    }
    root.mkdir(exist_ok=True)
    for split, images in rows.items():
        lines = [f"{split}/{n}.jpg,{a},{g},East Asian,True" for n, a, g in images]
        (root / f"fairface_label_{split}.csv").write_text(head + "\n".join(lines))
    labels: Labels = {
        "train/1.jpg": (55, 0, "train", None),
        "train/2.jpg": (6, 1, "train", None),
        "val/1.jpg": (75, 1, "validation", None),
        "val/2.jpg": (1, 0, "validation", None),
    }
    _draw(root, labels)
    return labels


def megaage(root: pathlib.Path) -> Labels:
    base = root / "megaage_asian"
    (base / "list").mkdir(parents=True)
    labels: Labels = {}
    for split, ages in {"train": (3, 70, 25), "test": (41, 0)}.items():
        names = [f"{i}.jpg" for i in range(1, len(ages) + 1)]
        (base / f"list/{split}_name.txt").write_text("\n".join(names) + "\n")
        (base / f"list/{split}_age.txt").write_text("\n".join(map(str, ages)) + "\n\n")
        for name, age in zip(names, ages, strict=True):
            labels[f"megaage_asian/{split}/{name}"] = (age, -1, split, None)
    _draw(root, labels)
    return labels


def adience(root: pathlib.Path) -> Labels:
    head = (
        "user_id\toriginal_image\tface_id\tage\tgender\tx\ty\tdx\tdy\ttilt_ang"
        "\tfiducial_yaw_angle\tfiducial_score"
    )
    rows = [
        ("30601258@N03", "10399646885_67c7d20df9_o.jpg", "1", "(25, 32)", "f"),
        ("30601258@N03", "10424815813_e94629b1ec_o.jpg", "2", "35", "m"),
        ("7153718@N04", "11597935265_29bcdfa4a5_o.jpg", "3", "(60, 100)", "m"),
        ("7153718@N04", "11598013005_ad7bc2d5ba_o.jpg", "4", "None", "f"),
        ("7153718@N04", "11628447054_45bca3ac6a_o.jpg", "5", "(0, 2)", "u"),
        ("7153718@N04", "11629057045_fa1a9e8f2f_o.jpg", "6", "(4, 6)", ""),
    ]
    root.mkdir(exist_ok=True)
    for fold in range(2):
        lines = ["\t".join([*r, *"1234567"]) for r in rows[fold * 3 : fold * 3 + 3]]
        (root / f"fold_{fold}_data.txt").write_text("\n".join([head, *lines]) + "\n")
    (root / "fold_frontal_0_data.txt").write_text(head + "\n")
    keys = [
        f"aligned/{user}/landmark_aligned_face.{face}.{image}"
        for user, image, face, *_ in rows
    ]
    _draw(root, keys)
    return {
        keys[0]: (29, 1, None, "30601258@N03"),
        keys[1]: (35, 0, None, "30601258@N03"),
        keys[2]: (80, 0, None, "7153718@N04"),
    }


def appa_real(root: pathlib.Path, *, genders: bool = True) -> Labels:
    labels: Labels = {}
    root.mkdir(exist_ok=True)
    for number, split in enumerate(("train", "valid", "test")):
        lines = ["file_name,num_ratings,apparent_age_avg,apparent_age_std,real_age"]
        words = ["file,gender,race,happiness,makeup"]
        for i in range(2):
            name = f"00{number}{i}00.jpg"
            lines.append(f"{name},38,{40.5 + i},4.2,{30 + i + number}")
            words.append(f"{name},{('male', 'female')[i]},asian,happy,makeup")
            # One photo has no face next to it.
            key = f"{split}/{name}" + ("" if i else "_face.jpg")
            given = "validation" if split == "valid" else split
            gender = i if genders else -1
            labels[key] = (30 + i + number, gender, given, None)
            _draw(root, [f"{split}/{name}"])
        (root / f"gt_avg_{split}.csv").write_text("\n".join(lines) + "\n")
        (root / f"gt_{split}.csv").write_text("file_name,age,age\n")
        if genders:
            (root / f"allcategories_{split}.csv").write_text("\n".join(words) + "\n")
    _draw(root, labels)
    return labels


def imdb_wiki(root: pathlib.Path, *, persons=None, numbers=None) -> Labels:
    """Photos of persons born on 30 June, 1 July and 2 July 1980.

    `persons` are the names and `numbers` the numbers of the persons of seven photos.
    """
    from scipy import io

    # MATLAB calls 1 January 1970 719529; 30 June 1980 is 3833 days later.
    born = [719529.0 + 3833 + day for day in (0, 1, 2, 0, 0, 0, 0)]
    names = [f"0{i}/nm{i}_rm{i}_1980-6-30_2005.jpg" for i in range(7)]
    nan, inf = float("nan"), float("inf")
    born[6] = 47.0  # No date.

    def row(values):
        return np.array([values], np.float64)

    def cells(values):
        result = np.empty((1, len(values)), object)
        for i, value in enumerate(values):
            result[0, i] = np.array([value])
        return result

    fields = {
        "dob": row(born),
        "photo_taken": row([2005.0] * 7),
        "full_path": cells(names),
        "gender": row([1, 0, 1, nan, 1, 0, 1]),
        "name": cells(persons or [f"Person {i // 2}" for i in range(7)]),
        "face_location": cells([0.0] * 7),
        "face_score": row([3.5, 4.0, 2.0, 3.0, -inf, 3.0, 3.0]),
        "second_face_score": row([nan, nan, nan, nan, nan, 2.5, nan]),
        "celeb_id": row(numbers or [7, 7, 9, 9, 9, 9, 9]),
    }
    labels: Labels = {}
    for name, group in (("imdb", "7 7 9"), ("wiki", "0 0 1")):
        folder = root / f"{name}_crop"
        folder.mkdir(parents=True, exist_ok=True)
        if name == "wiki":
            del fields["celeb_id"]
        io.savemat(folder / f"{name}.mat", {name: fields})
        prefix = "imdb " if name == "imdb" else "wiki Person "
        for i, (age, gender) in enumerate(((25, 0), (25, 1), (24, 0))):
            person = prefix + group.split()[i]
            labels[f"{name}_crop/{names[i]}"] = (age, gender, None, person)
        _draw(folder, names)
    return labels


ALL = {
    f.__name__: f
    for f in (
        *(afad, utkface, imdb_wiki, fairface, agedb),
        *(megaage, adience, morph, appa_real),
    )
}
