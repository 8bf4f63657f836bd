"""Parquet files of images, in the layout of the Hugging Face `Image` and `ClassLabel` features or a plainer one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datastill.errors import DatastillError
from datastill.runtime.files import sha256_file
from datastill.sources.listing import Listing, Opener, class_index

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels")
TEST_NAMES = ("test", "validation", "valid", "val")
_SPLIT_FILE = re.compile(rf"(train|{'|'.join(TEST_NAMES)})([-_.].*)?\.parquet")


@dataclass(frozen=True)
class Columns:
    """Where the pictures and labels of a file are; names are the class names of its metadata, if there are any."""

    image: str
    label: str
    names: tuple[str, ...] | None
    struct: bool
    paths: bool


def parquet_files(folder: Path) -> list[Path]:
    """Return the visible Parquet files of a folder, or of its only subfolder that has any (data/, plain_text/)."""
    here = _visible(folder)
    if here:
        return here
    below = [files for sub in sorted(folder.iterdir()) if sub.is_dir() and (files := _visible(sub))]
    return below[0] if len(below) == 1 else []


def list_parquet(files: Sequence[Path], name: str, origin: str) -> Listing:
    """List the images of Parquet files.

    Args:
        files: train.parquet, train-*.parquet and test, validation, valid or val likewise; files without such names are
            one set that is not split yet.
        name: of the data set.
        origin: how to load it again.

    Raises: DatastillError for a file that is damaged or lacks the columns, and for labels outside the class names.
    """
    train, test, notes = _split_files(files)
    columns = _columns(train[0])
    train_values = [_labels(path, columns) for path in train]
    test_values = [_labels(path, _columns(path)) for path in test]
    classes = columns.names or tuple(str(value) for value in sorted({v for one in train_values for v in one}))
    labels = [
        _numbered(values, columns.names, classes, path)
        for path, values in zip([*train, *test], [*train_values, *test_values], strict=True)
    ]
    trained, total = sum(map(len, train_values)), sum(map(len, labels))
    split = "train" if test else name
    ids = _ids([*train, *test], columns) or (
        *(f"{split}/{row}" for row in range(trained)),
        *(f"test/{row}" for row in range(total - trained)),
    )
    return Listing(
        name=name,
        origin=origin,
        classes=classes,
        ids=ids,
        labels=np.concatenate(labels),
        testing=np.arange(total) >= trained if test else None,
        stream=lambda: (opener for path in (*train, *test) for opener in _openers(path)),
        key=["parquet", len(train), [sha256_file(path) for path in (*train, *test)]],
        notes=notes,
    )


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith(".") and path.is_file())


def _split_files(files: Sequence[Path]) -> tuple[list[Path], list[Path], tuple[str, ...]]:
    by_split: dict[str, list[Path]] = {}
    for path in files:
        match = _SPLIT_FILE.fullmatch(path.name)
        by_split.setdefault(match[1] if match else "", []).append(path)
    train = by_split.get("train", [])
    if not train:
        if by_split.keys() - {""} and len(files) > 1:
            raise DatastillError(
                f"'{files[0].parent}' has Parquet files for {', '.join(sorted(by_split.keys() - {''}))} but no "
                "train.parquet or train-*.parquet."
            )
        return list(files), [], ()
    tested = next((split for split in TEST_NAMES if split in by_split), None)
    test = by_split[tested] if tested else []
    aside = [path.name for path in files if path not in train and path not in test]
    return train, test, (f"Left aside: {', '.join(aside)}.",) if aside else ()


def _file(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DatastillError(f"'{path}' cannot be read as Parquet: {_first_line(error)}.") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _columns(path: Path) -> Columns:
    with _file(path) as file:
        schema = file.schema_arrow
    features = _features(schema)
    image = _pick(schema, features, IMAGE_COLUMNS, "Image")
    label = _pick(schema, features, LABEL_COLUMNS, "ClassLabel")
    if image is None or label is None:
        what, known = ("image", IMAGE_COLUMNS) if image is None else ("label", LABEL_COLUMNS)
        raise DatastillError(
            f"'{path}' has no {what} column ({' or '.join(known)}); its columns are {', '.join(schema.names)}."
        )
    kind = schema.field(image).type
    children = {child.name: child.type for child in kind} if pa.types.is_struct(kind) else {}
    if not _binary(children.get("bytes", kind)):
        raise DatastillError(
            f"column '{image}' of '{path}' holds {kind}; it must hold encoded pictures, as binary or struct with bytes."
        )
    feature = features.get(label)
    names = feature.get("names") if isinstance(feature, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(one, str) for one in names):
        names = None
    return Columns(
        image=image,
        label=label,
        names=tuple(names) if names else None,
        struct=bool(children),
        paths=pa.types.is_string(children.get("path", pa.null())),
    )


def _binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Return the features of the `huggingface` metadata; empty where there are none or they do not parse."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def _pick(schema: pa.Schema, features: dict[str, Any], names: Sequence[str], kind: str) -> str | None:
    """Return the first of the usual names, else the only column that the metadata declare to be of this kind."""
    for name in names:
        if name in schema.names:
            return name
    declared = [n for n, f in features.items() if isinstance(f, dict) and f.get("_type") == kind and n in schema.names]
    return declared[0] if len(declared) == 1 else None


def _labels(path: Path, columns: Columns) -> list[Any]:
    """Return the label column as Python integers or strings."""
    with _file(path) as file:
        kind = file.schema_arrow.field(columns.label).type
        column = _read(path, file, columns.label)
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_integer(plain) or pa.types.is_string(plain) or pa.types.is_large_string(plain)):
        raise DatastillError(f"column '{columns.label}' of '{path}' holds {kind}; labels must be integers or strings.")
    if column.null_count:
        raise DatastillError(
            f"column '{columns.label}' of '{path}' has {column.null_count} empty label(s); remove them."
        )
    if not len(column):
        raise DatastillError(f"'{path}' has no rows.")
    return list(column.to_pylist())


def _read(path: Path, file: pq.ParquetFile, column: str) -> pa.ChunkedArray:
    try:
        return file.read(columns=[column]).column(0)
    except (pa.ArrowException, OSError) as error:
        raise DatastillError(f"'{path}' cannot be read as Parquet: {_first_line(error)}.") from error


def _numbered(
    values: list[Any], names: tuple[str, ...] | None, classes: tuple[str, ...], path: Path
) -> np.ndarray[Any, np.dtype[np.int64]]:
    if names is None or isinstance(values[0], str):
        return class_index([str(value) for value in values], classes, f"'{path}'")
    labels = np.array(values, np.int64)
    outside = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if len(outside):
        row = int(outside[0])
        raise DatastillError(
            f"row {row} of '{path}' has label {labels[row]}, and its class names allow 0 to {len(names) - 1}."
        )
    return labels


def _ids(files: Sequence[Path], columns: Columns) -> tuple[str, ...] | None:
    """Return the paths that the files give their pictures, if each picture has one of its own."""
    if not columns.paths:
        return None
    ids: list[str | None] = []
    for path in files:
        with _file(path) as file:
            if not _columns(path).paths:
                return None
            column = _read(path, file, f"{columns.image}.path")
            ids += [row and row["path"] for row in column.to_pylist()]
    found = tuple(one for one in ids if one)
    return found if len(found) == len(ids) == len(set(found)) else None


def _openers(path: Path) -> Iterator[Opener]:
    """Yield one opener a row; only a batch of rows is held in memory."""
    columns = _columns(path)
    leaf = f"{columns.image}.bytes" if columns.struct else columns.image
    with _file(path) as file:
        batches = file.iter_batches(batch_size=512, columns=[leaf])
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                raise DatastillError(f"'{path}' cannot be read as Parquet: {_first_line(error)}.") from error
            if batch is None:
                return
            column = batch.column(0)
            if columns.struct:
                column = column.flatten()[0]
            yield from (_opener(value) for value in column)


def _opener(value: pa.Scalar[Any]) -> Opener:
    return lambda: value.as_py() or b""
