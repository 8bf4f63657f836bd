"""A distilled set in other forms: folders of pictures, one Parquet file, tensors for DD-Ranking, a sheet of samples."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from datastill.artifact import DistilledDataset
from datastill.errors import DatastillError, unknown
from datastill.runtime.files import save_arrays, write_atomic, write_bytes, write_json
from datastill.sources import encode_picture

FORMS = ("imagefolder", "parquet", "ddranking")
SHEET_CLASSES, SHEET_COLUMNS, SHEET_SIDE = 20, 12, 64


def export(distilled: DistilledDataset, form: str, out: Path) -> Path:
    """Write every expanded item to `out`, which must not exist or be an empty folder.

    Args:
        distilled: the set.
        form: "imagefolder" (a folder of PNG files per class, soft labels in labels.parquet), or "parquet" (one file
            train.parquet with image, label and, where there are any, logits), or "ddranking" (tensors.safetensors with
            what DD-Ranking's evaluators take, and a README.md that says how).
        out: the folder.

    Raises: DatastillError for another form, a folder that is not empty, labels of views or of recorded batches, which
        belong to no picture, or a set that DD-Ranking cannot evaluate.
    """
    if form not in FORMS:
        raise unknown("export form", form, FORMS)
    if out.exists() and any(out.iterdir()):
        raise DatastillError(f"'{out}' is not empty; export to another folder.")
    if distilled.labels.views is not None:
        raise DatastillError(
            f"the form '{form}' keeps one label beside each picture, but the labels of this set belong to "
            f"{distilled.labels.views.count} views of each item; use the set as it is, or distil it with label=static."
        )
    if distilled.labels.records is not None:
        raise DatastillError(
            f"the form '{form}' keeps one label beside each picture, but the labels of this set belong to "
            f"{distilled.labels.records.recording.count:,} recorded batches; use the set as it is, or label it anew "
            "with label=static."
        )
    if form == "ddranking":
        return _ddranking(distilled, out)
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


@dataclass(frozen=True)
class Ranked:
    """A data set of DD-Ranking; `side` in pixels, None where any will do.

    mean, std: by which it normalises test images and random real images, whatever the set's own are.
    """

    name: str
    classes: int
    side: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


CIFAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# From ddranking/utils/data.py of NUS-HPC-AI-Lab/DD-Ranking 0.2.0 (commit b8b0966), for the sources whose classes have
# the same order here and there.
RANKED = {
    "cifar10": Ranked("CIFAR10", 10, 32, *CIFAR),
    "cifar100": Ranked("CIFAR100", 100, 32, *CIFAR),
    "tiny-imagenet": Ranked("TinyImageNet", 200, 64, *IMAGENET),
    "imagenette": Ranked("ImageNette", 10, None, *IMAGENET),
}

INSTEAD = "; export to imagefolder or parquet."

DDRANKING_README = """\
# A distilled set for DD-Ranking

`tensors.safetensors` holds the {items:,} items of a distilled set of {name}, class by class, as the evaluators of
`ddranking` 0.2.0 take them:

| tensor | what it is |
|---|---|
| `images` | float32 {shape}, normalised by the mean {mean} and the deviation {std} that DD-Ranking uses for {name} |
| `hard_labels` | int64 [{items}], the class of each image: 0 is {first!r}, {last} is {final!r} |
{soft_row}
```python
from ddranking.metrics import {evaluator}
from safetensors.torch import load_file

tensors = load_file("tensors.safetensors")
evaluator = {evaluator}(
    dataset="{name}", ipc={per_class}, im_size=({side}, {side}), optimizer="{optimiser}",
    weight_decay={weight_decay}, num_epochs={epochs}, syn_batch_size={batch},{soft_arguments}
)
evaluator.compute_metrics(image_tensor=tensors["images"], {labels}=tensors["{labels}"], syn_lr={lr})
```

- `ipc` is the number of items per class: the evaluators label images by it, and draw as many random real images.
- The other arguments (model, teachers, schedule, augmentation) are those of the evaluator: it does not know this set's
  recipe, and its augmentations are not the recipe's.
- Without `syn_lr` the evaluator tunes the learning rate on test images. For random real images it always does.
- Its accuracies and scores cannot be compared with Datastill's: it keeps the best epoch on test images, and hands
  percentages to exp(), which makes a score of any size.
{note}"""
SOFT_ROW = (
    "| `soft_labels` | float32 [{items}, {classes}], the teachers' mean logits: losses take the softmax themselves |\n"
)
SOFT_ARGUMENTS = """
    soft_label_mode="S", soft_label_criterion="kl",
    loss_fn_kwargs={{"temperature": {temperature}, "scale_loss": {scale}}},"""
SOFT_NOTE = """\
- In version 0.2.0, mode "S" stops with an error when it draws random real images (`get_random_data_tensors` is called
  without its class map). `LabelRobustScoreHard` with `hard_labels` runs.
"""
DYNAMIC_NOTE = """\
- Students of this set ask networks in the loop. They are not in this folder, for the evaluators take teachers of their
  own; these images are for evaluation with hard labels.
"""


def _ddranking(distilled: DistilledDataset, out: Path) -> Path:
    """Write what DD-Ranking's evaluators take as tensors. It reads .pt files, which are pickles; these are not."""
    ranked, images, cls = _ranked(distilled), distilled.expand().images, distilled.content.items.cls
    order = torch.argsort(cls, stable=True)  # without labels, the evaluators count classes off by ipc
    # Rounded as torchvision's ToTensor and Normalize round, which the evaluators use for real images.
    pixels = images[order].float() / 255.0 if images.dtype == torch.uint8 else images[order].float()
    space = [torch.tensor(v).view(1, 3, 1, 1) for v in (ranked.mean, ranked.std)]
    arrays = {"images": (pixels - space[0]) / space[1], "hard_labels": cls[order]}
    if distilled.labels.values is not None:
        arrays["soft_labels"] = distilled.labels.values[order].float()
    save_arrays(out / "tensors.safetensors", arrays)
    write_bytes(out / "README.md", _ddranking_readme(distilled, ranked).encode())
    return out


def _ranked(distilled: DistilledDataset) -> Ranked:
    """Return the data set of DD-Ranking that a set is of. Raises: DatastillError for one that it cannot evaluate."""
    info, ranked = distilled.info, RANKED.get(distilled.info.name)
    if ranked is None:
        raise DatastillError(
            f"DD-Ranking has no data set '{info.name}', and is known to read {', '.join(RANKED)}{INSTEAD}"
        )
    side = ranked.side or info.shape[1]
    if (info.classes, info.shape) != (ranked.classes, (3, side, side)):
        raise DatastillError(
            f"DD-Ranking evaluates {ranked.name} with {ranked.classes} classes and {side}x{side} colour images, but "
            f"this set has {info.classes} classes and images of shape {info.shape}{INSTEAD}"
        )
    counts = torch.bincount(distilled.content.items.cls, minlength=info.classes).tolist()
    if len(set(counts)) > 1:
        raise DatastillError(
            f"DD-Ranking asks for equally many items of each class, but this set has from {min(counts)} to "
            f"{max(counts)}{INSTEAD}"
        )
    return ranked


def _ddranking_readme(distilled: DistilledDataset, ranked: Ranked) -> str:
    student, info, items = distilled.recipe.student, distilled.info, len(distilled)
    work, soft = student.work(items), distilled.labels.values is not None
    soft_row = soft_arguments = note = ""
    if soft:
        scale = student.kl_scale == "temperature-squared"
        soft_row = SOFT_ROW.format(items=items, classes=info.classes)
        soft_arguments, note = SOFT_ARGUMENTS.format(temperature=student.temperature, scale=scale), SOFT_NOTE
    elif distilled.labels.kind == "teachers":
        note = DYNAMIC_NOTE
    return DDRANKING_README.format(
        name=ranked.name, items=items, shape=[items, *info.shape], mean=ranked.mean, std=ranked.std,
        first=distilled.classes[0], last=info.classes - 1, final=distilled.classes[-1], soft_row=soft_row,
        evaluator="LabelRobustScoreSoft" if soft else "LabelRobustScoreHard", per_class=items // info.classes,
        side=info.shape[1], optimiser=student.optimiser, weight_decay=student.weight_decay,
        epochs=math.ceil(work.steps / work.epoch), batch=student.batch, soft_arguments=soft_arguments,
        labels="soft_labels" if soft else "hard_labels", lr=student.lr, note=note,
    )  # fmt: skip


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
    return images if images.dtype == torch.uint8 else (images.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
