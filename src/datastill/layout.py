"""How pictures, items and recorded batches lie in the folder of an artifact: Parquet tables, atlases where a file packs
pictures, and safetensors files of whole batches.

N items, P pictures, K classes. What a stranger's table may claim is checked before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from datastill.codecs import PictureCodec, decode_pictures, encode_pictures
from datastill.codecs.pictures import KINDS
from datastill.errors import DatastillError, unknown
from datastill.recipe import DatasetInfo, TrainRecipe
from datastill.runtime.files import load_arrays, save_arrays, write_atomic, write_bytes
from datastill.settings import build
from datastill.training.records import check_arrays, form_of
from datastill.values import COLUMNS, Items, Labels, Pictures, Records

PICTURES, ITEMS, ATLASES, RECORDS = "images.parquet", "items.parquet", "pictures", "labels"
# So names and numbers of 2,000 pictures cost 8 bytes each, where the defaults of Parquet take 53.
BARE: dict[str, Any] = {"use_dictionary": False, "write_statistics": False}
NAMES = {"image.bytes": "none", "image.path": "zstd", "label": "zstd", "id": "zstd"}
C = TypeVar("C")


def atlas_names(codec: PictureCodec, count: int) -> Iterator[str]:
    """Yield the names of the files that `count` pictures take beside the table; none where the table holds them."""
    for i in range(codec.files(count) if codec.packed else 0):
        yield f"{ATLASES}/{i:05d}.{codec.ending}"


def write_pictures(folder: Path, pictures: Pictures, classes: tuple[str, ...]) -> list[str]:
    """Write the table of pictures, and atlases where the codec packs; returns the names of what was written."""
    codec, labels = pictures.codec, pictures.cls
    assert pictures.encoded is not None or codec.lossless, "a store codes its pictures before they are looked at"
    files = encode_pictures(pictures.pixels, codec) if pictures.encoded is None else list(pictures.encoded)
    if not codec.packed:
        _write_images(folder / PICTURES, files, pictures, classes)
        return [PICTURES]
    places = pictures.places if pictures.places is not None else torch.full_like(labels, -1)
    _write_numbers(folder / PICTURES, {"label": labels, "place": places})
    names = list(atlas_names(codec, len(labels)))
    for name, data in zip(names, files, strict=True):
        write_bytes(folder / name, data)
    return [PICTURES, *names]


def read_pictures(folder: Path, codec: PictureCodec, count: int, info: DatasetInfo) -> Pictures:
    """Read what `write_pictures` wrote.

    Raises: DatastillError, naming the file, for a table or a picture that is not what codec, count and info say.
    """
    path = folder / PICTURES
    table = _read_table(path, count, ("label", "place") if codec.packed else ("image", "label", "id"))
    labels = torch.tensor(table["label"].to_numpy(), dtype=torch.long)
    _check_range(path, "label", labels, 0, info.classes)
    if codec.packed:
        files = [(folder / name).read_bytes() for name in atlas_names(codec, count)]
        places = torch.tensor(table["place"].to_numpy(), dtype=torch.long)
        _check_range(path, "place", places, -1, info.train_images)
        pixels = decode_pictures(files, codec, count, info.shape, str(folder / ATLASES))
        return Pictures(pixels, labels, (), codec, None if codec.lossless else tuple(files), places)
    files = [row["bytes"] for row in table["image"].to_pylist()]
    pixels = decode_pictures(files, codec, count, info.shape, str(path))
    return Pictures(pixels, labels, tuple(table["id"].to_pylist()), codec, None if codec.lossless else tuple(files))


def read_codec(kind: type[C], claim: Any, where: str) -> C:
    """Return the codec that a manifest names. Raises: DatastillError for one that there is not."""
    mistakes: list[str] = []
    if kind is PictureCodec:
        name = claim.get("format") if isinstance(claim, Mapping) else claim
        if name not in KINDS:
            raise unknown("codec of pictures", str(name), tuple(KINDS))
    made: C = build(kind, claim, "codec", mistakes)
    if mistakes:
        raise DatastillError(f"'{where}': " + " ".join(mistakes))
    return made


def write_items(path: Path, items: Items) -> None:
    """Write the columns of items as int32."""
    _write_numbers(path, {name: getattr(items, name) for name in COLUMNS})


def read_items(path: Path, count: int, high: Mapping[str, int]) -> Items:
    """Read what `write_items` wrote; `high` bounds the values of columns.

    Raises: DatastillError, naming the file, for another number of rows, and for values that point nowhere.
    """
    table = _read_table(path, count, COLUMNS)
    columns = {name: torch.from_numpy(np.array(table[name].to_numpy(), dtype=np.int64)) for name in COLUMNS}
    for name, values in columns.items():
        _check_range(path, name, values, -1 if name in ("maker", "unit", "picture") else 0, high.get(name, 1 << 31))
    return Items.of(**columns)


def record_names(count: int, per_file: int) -> Iterator[str]:
    """Yield the names of the files that hold `count` recorded batches, `per_file` in each but the last."""
    for i in range(-(-count // per_file)):
        yield f"{RECORDS}/{i:05d}.safetensors"


def write_records(folder: Path, records: Records) -> list[str]:
    """Write recorded batches, a file at a time; returns the names of what was written."""
    names = list(record_names(records.recording.count, records.per_file))
    for name, arrays in zip(names, records.files, strict=True):
        save_arrays(folder / name, arrays)
    return names


def read_records(folder: Path, labels: Labels, student: TrainRecipe, items: int, info: DatasetInfo) -> Labels:
    """Read what `write_records` wrote into labels that say which batches, how many in a file, and under which codec.

    Files are mapped into memory, and read where a student gets to; here each is looked through once, by itself.

    Raises: DatastillError, naming the file, for arrays, rows, views or logits that are not what they should be.
    """
    claimed = labels.records
    assert claimed is not None, "labels of recorded batches"
    paths = [folder / name for name in record_names(claimed.recording.count, claimed.per_file)]
    records = Records(claimed.recording, claimed.per_file, tuple(load_arrays(path) for path in paths))
    form = form_of(student, items)
    for number, path in enumerate(paths):
        views, count = records.part(number, "view."), records.batches(number)
        check_arrays(views, form, count, items, info.shape, records.recording.crop, str(path))
        records.logits(number, info.classes, labels.codec, str(path))
        known = len(views) + len(records.part(number, "label."))
        if len(records.files[number]) != known:
            strange = sorted(n for n in records.files[number] if not n.startswith(("view.", "label.")))
            raise DatastillError(f"'{path}' holds an array '{strange[0]}', which belongs to no recorded batch.")
    return replace(labels, records=records)


def _write_table(path: Path, table: pa.Table, **how: Any) -> None:
    write_atomic(path, lambda part: pq.write_table(table, part, **how))


def _write_numbers(path: Path, columns: Mapping[str, Tensor]) -> None:
    table = pa.table({name: pa.array(values.numpy(), pa.int32()) for name, values in columns.items()})
    # Differences, packed to the bit: a column with a rule in it takes some 30 bytes, whatever its length.
    packed = dict.fromkeys(columns, "DELTA_BINARY_PACKED")
    _write_table(path, table, column_encoding=packed, compression="zstd", store_schema=False, **BARE)


def _write_images(path: Path, files: Sequence[bytes], pictures: Pictures, classes: tuple[str, ...]) -> None:
    labels = pictures.cls.tolist()
    names = [f"{i:06d}.{pictures.codec.ending}" for i in range(len(labels))]
    feature = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(classes)},
               "id": {"_type": "Value", "dtype": "string"}}  # fmt: skip
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64()),
         ("id", pa.string())],
        metadata={"huggingface": json.dumps({"info": {"features": feature}})},
    )  # fmt: skip
    columns = {"image": [{"bytes": b, "path": n} for b, n in zip(files, names, strict=True)],
               "label": labels, "id": list(pictures.ids)}  # fmt: skip
    _write_table(path, pa.table(columns, schema=schema), compression=NAMES, **BARE)


def _read_table(path: Path, rows: int, columns: Sequence[str]) -> pa.Table:
    try:
        file = pq.ParquetFile(path)
        if file.metadata.num_rows != rows:
            raise DatastillError(f"'{path}' has {file.metadata.num_rows} rows, but the manifest says {rows}.")
        table = file.read(columns=list(columns))
        table.validate(full=True)
        if any(column.null_count for column in table.columns):
            raise DatastillError(f"'{path}' has empty cells.")
    except (pa.ArrowException, OSError) as error:
        raise DatastillError(f"'{path}' is not a readable Parquet file: {error}.") from error
    return table


def _check_range(path: Path, name: str, values: Tensor, low: int, high: int) -> None:
    if len(values) and not (low <= int(values.min()) and int(values.max()) < high):
        raise DatastillError(f"'{path}' has values of '{name}' outside {low}..{high - 1}.")
