"""A distilled set in other forms: folders of pictures, one Parquet file, a sheet of samples."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from datastill.artifact import DistilledDataset
from datastill.errors import DatastillError, unknown
from datastill.runtime.files import write_atomic, write_bytes, write_json
from datastill.sources import encode_picture

FORMS = ("imagefolder", "parquet")
SHEET_CLASSES, SHEET_COLUMNS, SHEET_SIDE = 20, 12, 64


def export(distilled: DistilledDataset, form: str, out: Path) -> Path:
    """Write every expanded item to `out`, which must not exist or be an empty folder.

    Args:
        distilled: the set.
        form: "imagefolder" (a folder of PNG files per class, soft labels in labels.parquet), or "parquet" (one file
            train.parquet with image, label and, where there are any, logits).
        out: the folder.

    Raises: DatastillError for another form, or a folder that is not empty.
    """
    if form not in FORMS:
        raise unknown("export form", form, FORMS)
    if out.exists() and any(out.iterdir()):
        raise DatastillError(f"'{out}' is not empty; export to another folder.")
    images = _uint8(distilled.expand().images)
    if form == "parquet":
        return _parquet(distilled, images, out)
    names = folder_names(distilled.classes)
    cls = distilled.content.items.cls.tolist()
    places = [f"{names[k]}/{i:06d}.png" for i, k in enumerate(cls)]
    for place, image in zip(places, images, strict=True):
        write_bytes(out / place, encode_picture(image.numpy(), "png"))
    write_json(out / "classes.json", dict(zip(names, distilled.classes, strict=True)))
    if distilled.labels.values is not None:
        table = pa.table({"file": places, "logits": list(distilled.labels.values.float().numpy())})
        write_atomic(out / "labels.parquet", lambda part: pq.write_table(table, part, compression="zstd"))
    return out


def _parquet(distilled: DistilledDataset, images: Tensor, out: Path) -> Path:
    labels = distilled.content.items.cls
    feature = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(distilled.classes)}}
    metadata = {"huggingface": json.dumps({"info": {"features": feature}})}
    files = [encode_picture(image.numpy(), "png") for image in images]
    columns: dict[str, pa.Array] = {
        "image": pa.array([{"bytes": data, "path": f"{i:06d}.png"} for i, data in enumerate(files)],
                          pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "label": pa.array(labels.numpy(), pa.int64()),
    }  # fmt: skip
    if distilled.labels.values is not None:
        columns["logits"] = pa.array(list(distilled.labels.values.float().numpy()), pa.list_(pa.float32()))
        feature["logits"] = {"_type": "Sequence", "feature": {"_type": "Value", "dtype": "float32"}}
        metadata = {"huggingface": json.dumps({"info": {"features": feature}})}
    table = pa.table(columns).replace_schema_metadata(metadata)
    write_atomic(out / "train.parquet", lambda part: pq.write_table(table, part, compression="none"))
    return out


def folder_names(classes: tuple[str, ...]) -> list[str]:
    """Return a safe folder name per class: its number, and what of its name no file system minds."""
    return [f"{k:04d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', name)[:60]}" for k, name in enumerate(classes)]


def sheet(distilled: DistilledDataset) -> Image.Image:
    """Return a picture of samples: a row per class (the first 20), up to 12 items each, evenly chosen."""
    images, cls = _uint8(distilled.expand().images), distilled.content.items.cls
    zoom = max(1, SHEET_SIDE // images.shape[2])
    rows = []
    for k in range(min(len(distilled.classes), SHEET_CLASSES)):
        mine = (cls == k).nonzero().flatten()
        chosen = mine[torch.linspace(0, len(mine) - 1, SHEET_COLUMNS).long()]
        rows.append(np.concatenate([_shown(images[i], zoom) for i in chosen], axis=1))
    return Image.fromarray(np.concatenate(rows, axis=0))


def _shown(image: Tensor, zoom: int) -> np.ndarray:
    planes = image.expand(3, -1, -1).permute(1, 2, 0).numpy()
    large = planes.repeat(zoom, axis=0).repeat(zoom, axis=1)
    return np.pad(large, ((1, 1), (1, 1), (0, 0)), constant_values=255)


def _uint8(images: Tensor) -> Tensor:
    return images if images.dtype == torch.uint8 else (images * 255.0).round().to(torch.uint8)
