"""Croissant 1.1: a description of a data set in JSON-LD, for catalogues and loaders.

Loaders of Croissant read CSV and Parquet, but neither TFRecord nor HDF5.  The shards
are therefore listed only as files with their checksums.  A loader reads the records
from the table of labels, and from the Parquet files with the images if there are any::

    value = croissant.describe(manifest, stated, listed)

Source: https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html.
"""

from __future__ import annotations

import dataclasses
import os
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from afad_tfdata.common import errors, files
from afad_tfdata.describing import licence_and_origin, parquet_images
from afad_tfdata.storage import file_names, schema, tfds_metadata
from afad_tfdata.writing import rejections

# Names of the formats of records, for people.
FORMATS = {"tfrecord": "TFRecord", "hdf5": "HDF5"}
CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
# The same as in dataset_info.json.  It never changes, because the content is identified
# by its checksums and not by a version.
_VERSION = "1.0.0"
# These formats have no registered media type.  For such formats, Croissant asks for the
# address of a page about the format.
_TFRECORD = "https://www.tensorflow.org/tutorials/load_data/tfrecord"
_NUMPY = "https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html"
_MEDIA_TYPES = {
    ".csv": "text/csv",
    ".h5": "application/x-hdf5",
    ".json": "application/json",
    ".jsonl": "application/jsonlines",
    ".npy": _NUMPY,
    ".parquet": "application/x-parquet",
    ".txt": "text/plain",
}
# The context in the specification's examples; mlcroissant warns of any other.
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
# Name, type and meaning of each column of the table of labels.
_COLUMNS = {
    "key": ("sc:Text", "Path of the image, relative to the root of the source."),
    "split": ("sc:Text", "train, validation or test."),
    "shard": ("sc:Text", "File name of the shard that has the record."),
    "position": ("sc:Integer", "Number of the record in its shard, from 0."),
    "age": ("sc:Integer", "Age in years; empty if the record has none."),
    "gender": ("sc:Text", "Name of the gender's class; empty if there is none."),
    "gender_label": ("sc:Integer", "0 or 1; empty if the record has no gender."),
    "height": ("sc:Integer", "Height of the stored image in pixels."),
    "width": ("sc:Integer", "Width of the stored image in pixels."),
    "format": ("sc:Text", "Encoding of the stored image: jpeg, png or raw."),
}


@dataclasses.dataclass(frozen=True)
class FileFacts:
    """A file that ``croissant.json`` lists.

    Attributes:
      name: File name; it is also its identifier.
      num_bytes: Its size.
      sha256: Hexadecimal digest.
      about: What it is, in one sentence.
    """

    name: str
    num_bytes: int
    sha256: str
    about: str


def describe(
    manifest: schema.Manifest,
    stated: licence_and_origin.Statements,
    listed: Sequence[FileFacts],
    *,
    folder: str = "",
) -> dict[str, Any]:
    """The content of ``croissant.json``.

    Args:
      manifest: Of the data set.
      stated: Licence, citation and whatever else is not in the manifest.
      listed: All files, including the table of labels and the Parquet files.
      folder: Where the shards are, relative to the JSON file; empty for the same
        directory.
    """
    value: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": stated.title,
        "description": _description(manifest, stated),
        "version": _VERSION,
        "keywords": ["face images", "age", "gender"],
        "license": stated.license or None,
        "citeAs": stated.citation or None,
        "url": stated.url or None,
        "datePublished": stated.date_published or None,
        "rai:personalSensitiveInformation": [
            "Images of faces.",
            *(f"{label.capitalize()} of the person." for label in manifest.labels),
        ],
        "rai:dataLimitations": list(stated.limits),
        "distribution": [_file_object(file, folder) for file in listed],
        "recordSet": [
            _split_record_set(manifest),
            *_gender_record_set(manifest),
            _label_record_set(manifest),
        ],
    }
    if any(file_names.is_images_name(file.name) for file in listed):
        value["distribution"].append(_image_files())
        value["recordSet"].append(_image_record_set(manifest))
    return {k: v for k, v in value.items() if v not in (None, [])}


def folder_of_shards(records_dir: str, output_dir: str) -> str:
    """Where the shards are, as croissant.json names them."""
    if files.is_remote(output_dir):
        raise errors.UsageError(
            f"--output_dir={output_dir} is remote, and croissant.json names the shards"
            " relative to itself: write it next to them, then copy the directory"
        )
    folder = os.path.relpath(
        os.path.realpath(records_dir), os.path.realpath(output_dir)
    )
    return "" if folder == "." else folder.replace(os.sep, "/")


def described_files(records_dir: str, manifest: schema.Manifest) -> list[FileFacts]:
    """The files of a data set that croissant.json lists, with their checksums."""
    listed = [
        FileFacts(file.name, file.num_bytes, file.sha256, about)
        for name, split in manifest.splits.items()
        for file, about in (
            *((s, f"A shard of the split {name}.") for s in split.shards),
            (split.index, f"The index of the split {name}: offsets and labels."),
        )
    ]
    others = {
        schema.MANIFEST_NAME: "All files with their checksums, and the options.",
        schema.MEAN_NAME: "The channel means of the training split, or of all splits if"
        " it is empty.",
        rejections.FILE_NAME: "The files that were not written, and why.",
        **dict.fromkeys(tfds_metadata.NAMES, "For tensorflow_datasets."),
    }
    listed += [
        _file_facts(records_dir, name, about)
        for name, about in others.items()
        if files.exists(files.join(records_dir, name))
    ]
    return listed


def table_facts(directory: str, name: str) -> FileFacts:
    """A table that is written for Croissant: the labels, or images as Parquet."""
    about = "Images with their labels, as Parquet."
    if name == file_names.LABELS:
        about = "The labels of all records, and where each image is."
    return _file_facts(directory, name, about)


def _file_facts(directory: str, name: str, about: str) -> FileFacts:
    """Size and digest of a file that croissant.json lists."""
    path = files.join(directory, name)
    return FileFacts(name, os.path.getsize(path), files.sha256(path), about)


def _description(
    manifest: schema.Manifest, stated: licence_and_origin.Statements
) -> str:
    """The data set in one paragraph, for catalogues that read Croissant."""
    splits = ", ".join(
        f"{split.num_examples:,} in {name}"
        for name, split in manifest.splits.items()
        if split.num_examples
    )
    reader = "TensorFlow" if manifest.format == "tfrecord" else "h5py"
    text = (
        f"{manifest.written:,} images of faces with"
        f" {' and '.join(manifest.labels) or 'no label'}: {splits}. The images are in"
        f" {FORMATS[manifest.format]} shards, which {reader} and afad_tfdata read."
        " Loaders of Croissant read the record set 'records', which has all labels and"
        " the place of each image."
    )
    return f"{stated.description} {text}" if stated.description else text


def _file_object(file: FileFacts, folder: str) -> dict[str, Any]:
    """A file of the data set in Croissant's form."""
    # Files that were written for this description are next to it.
    derived = file.name == file_names.LABELS or file_names.is_images_name(file.name)
    path = file.name if derived or not folder else f"{folder}/{file.name}"
    return {
        "@type": "cr:FileObject",
        "@id": file.name,
        "name": file.name,
        "description": file.about,
        "contentUrl": urllib.parse.quote(path),
        "contentSize": f"{file.num_bytes} B",
        "encodingFormat": _media_type(file.name),
        "sha256": file.sha256,
    }


def _media_type(name: str) -> str:
    """The media type of a file for Croissant, by its name."""
    if ".tfrecord-" in name:
        return _TFRECORD
    ending = "." + name.rpartition(".")[2]
    return _MEDIA_TYPES[ending]


def _split_record_set(manifest: schema.Manifest) -> dict[str, Any]:
    """The Croissant record set of the splits."""
    return _enumeration_record_set(
        "splits",
        "The splits with their numbers of records.",
        {"name": "sc:Text", "num_examples": "sc:Integer"},
        [
            {"name": name, "num_examples": split.num_examples}
            for name, split in manifest.splits.items()
        ],
        kind="cr:Split",
    )


def _gender_record_set(manifest: schema.Manifest) -> list[dict[str, Any]]:
    """The Croissant record set that names the gender labels."""
    if "gender" not in manifest.labels:
        return []
    return [
        _enumeration_record_set(
            "genders",
            "What the labels of the gender mean.",
            {"label": "sc:Integer", "name": "sc:Text"},
            [{"label": i, "name": name} for i, name in enumerate(manifest.class_names)],
            kind="sc:Enumeration",
        )
    ]


def _enumeration_record_set(
    name: str,
    about: str,
    types: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
    *,
    kind: str,
) -> dict[str, Any]:
    """A Croissant record set whose rows are in the metadata itself."""
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": about,
        "dataType": kind,
        "key": {"@id": f"{name}/{next(iter(types))}"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{column}",
                "name": column,
                "dataType": data_type,
            }
            for column, data_type in types.items()
        ],
        "data": [{f"{name}/{k}": v for k, v in row.items()} for row in rows],
    }


def _label_record_set(manifest: schema.Manifest) -> dict[str, Any]:
    """The Croissant record set of the records with their labels."""
    source = {"fileObject": {"@id": file_names.LABELS}}
    return {
        "@type": "cr:RecordSet",
        "@id": "records",
        "name": "records",
        "description": f"One record for each of the {manifest.written:,} images.",
        "key": {"@id": "records/key"},
        "field": [
            _record_set_field("records", name, {**source, "extract": {"column": name}})
            for name in _columns_with_labels(manifest, _COLUMNS)
        ],
    }


def _image_files() -> dict[str, Any]:
    """The Parquet files in Croissant's form."""
    return {
        "@type": "cr:FileSet",
        "@id": "image-files",
        "name": "image-files",
        "description": "The same images as in the shards, as Parquet files.",
        "encodingFormat": "application/x-parquet",
        "includes": file_names.IMAGES_PATTERN,
    }


def _image_record_set(manifest: schema.Manifest) -> dict[str, Any]:
    """The Croissant record set of the images."""
    source = {"fileSet": {"@id": "image-files"}}
    columns = _columns_with_labels(manifest, parquet_images.COLUMNS)
    return {
        "@type": "cr:RecordSet",
        "@id": "images",
        "name": "images",
        "description": "The images with their labels.",
        "key": {"@id": "images/key"},
        "field": [
            _record_set_field("images", name, {**source, "extract": {"column": name}})
            for name in columns
        ],
    }


def _columns_with_labels(manifest: schema.Manifest, names: Iterable[str]) -> list[str]:
    """The columns of a Croissant record set, without labels that no record has."""
    absent = {"age", "gender", "gender_label"}
    if "age" in manifest.labels:
        absent -= {"age"}
    if "gender" in manifest.labels:
        absent -= {"gender", "gender_label"}
    return [name for name in names if name not in absent]


def _record_set_field(
    record_set: str, name: str, source: Mapping[str, Any]
) -> dict[str, Any]:
    """A field of a Croissant record set."""
    data_type, about = _COLUMNS.get(
        name, ("sc:ImageObject", "The image as a file: JPEG, or PNG for raw pixels.")
    )
    return {
        "@type": "cr:Field",
        "@id": f"{record_set}/{name}",
        "name": name,
        "description": about,
        "dataType": data_type,
        "source": source,
    }
