"""The data card of an artifact: what it is, what real images it holds, and how to load it with and without us."""

from __future__ import annotations

from typing import Any

from datastill.recipe import DatasetInfo, Recipe, methods

TELLS = {
    "classes": "hard labels only (column H)",
    "logits": "stored soft labels, one vector of logits per item (column S)",
    "teachers": "networks that label every batch, in `teachers/` (column D)",
}
LOSSLESS_HOLDS = """\
`images.parquet` holds **real images** of the training set, unchanged and losslessly coded; its column `id` names each
one (empty for pictures that are not real images). This set is not private: whoever has it has those images."""
LOSSLESS_BUILT = """\
`items.parquet` says for every item its class, its row in `images.parquet` (`picture`) and, where it has one, the row of
its compensator in `store.compensators` (`unit`): item = clip(picture / 255 + compensator, 0, 1), where an int8
compensator is divided by 127; then rounded to 8 bits, unless the recipe's store says `render: float`."""
LOSSY_HOLDS = """\
`images.parquet` holds every item as a JPEG file. The column `id` names those that are **real images** of the training
set; it is empty for the others, which are real images with a pattern added. This set is not private: whoever has it has
those images, but for what JPEG lost."""
LOSSY_BUILT = """\
`items.parquet` says for every item its class and its row in `images.parquet` (`picture`), which is the item."""


def card(
    recipe: Recipe, info: DatasetInfo, classes: tuple[str, ...], facts: dict[str, Any], kind: str, *, lossless: bool
) -> str:
    """Return the text of README.md; lossless: whether pictures are coded so, and items are made from them."""
    known = methods().get(recipe.method)
    counts = facts.get("counts", {})
    holds, built = (LOSSLESS_HOLDS, LOSSLESS_BUILT) if lossless else (LOSSY_HOLDS, LOSSY_BUILT)
    bought = ", ".join(f"{k} {v}" for k, v in sorted(counts.items()) if isinstance(v, int))
    return f"""---
license: other
task_categories: [image-classification]
tags: [dataset-distillation, {recipe.method}]
configs:
- config_name: default
  data_files: images.parquet
---

# {info.name}, distilled with {known.title if known else recipe.method}

{len(classes)} classes, {info.shape[0]} x {info.shape[1]} x {info.shape[2]} pixels (channels, height, width), made from
{info.train_images} training images at a nominal {recipe.ipc} images per class. Labels: {TELLS[kind]}.
Counts: {bought or "none recorded"}.

{holds}

## With Datastill

```python
from datastill import DistilledDataset

distilled = DistilledDataset.load("this folder")
for images, targets in distilled.loader(batch_size=64):
    ...
```

## Without Datastill

`images.parquet` opens with pandas, polars and `datasets.load_dataset`; arrays and labels are safetensors files.
{built}
`manifest.json` holds the recipe, versions, counts and hashes.
"""
