"""The data card of an artifact: what it is, what real images it holds, and how to load it with and without us."""

from __future__ import annotations

from typing import Any

from datastill.recipe import DatasetInfo, Recipe, methods
from datastill.training.boxes import box_side, corners
from datastill.values import FixedBoxes, Labels, Pictures, SeededViews

TELLS = {
    "classes": "hard labels only (column H)",
    "logits": "stored soft labels, one vector of logits per {of} (column S)",
    "replayed": "stored soft labels of recorded batches, one vector of logits per item of a batch (column D)",
    "teachers": "networks that label every batch, in `teachers/` (column D)",
}
CONFIGS = """\
configs:
- config_name: default
  data_files: images.parquet
"""
OPENS = "`images.parquet` opens with pandas, polars and `datasets.load_dataset`"
UNPACKED_HOLDS = """\
`images.parquet` holds **real images** of the training set, {coded}; its column `id` names each one (empty for pictures
that are not real images). This set is not private: whoever has it has those images{lost}."""
PACKED_HOLDS = """\
`pictures/` holds **real images** of the training set, {coded}, up to {tiles} in one file. `images.parquet` has a row
for each: `label`, and `place`, its row in the training split after a stable sort by class (-1 for a picture that is
no real image). This set is not private: whoever has it has those images{lost}."""
ITEM_FILES_HOLD = """\
`images.parquet` holds every item as a JPEG file. The column `id` names those that are **real images** of the training
set; it is empty for the others, which are real images with a pattern added. This set is not private: whoever has it has
those images, but for what JPEG lost."""
PACKED_OPENS = """\
Each file of `pictures/` is a grid of {height} x {width} tiles, row by row in the order of `images.parquet`; divide its
width by {width} for the tiles of a row. Each file but the last holds {tiles} tiles; what stands behind is filler. """
ADDED = """\
`items.parquet` says for every item its class, its row in `images.parquet` (`picture`) and, where it has one, the row of
its compensator in `store.compensators` (`unit`): item = clip(picture / 255 + compensator, 0, 1), where an int8
compensator is divided by 127; then rounded to 8 bits, unless the recipe's store says `render: float`."""
PLAIN = """\
`items.parquet` says for every item its class and its row in `images.parquet` (`picture`), which is the item."""
LOGITS = {
    "fp32": "`label.logits` holds them as they are.",
    "fp16": "`label.logits` holds them as they are.",
    "topk": """\
Item i: every logit is `label.rest[i]`, but those of the classes `label.index[i]`, which are `label.rest[i] +
label.codes[i] * label.step`.""",
    "klt": """\
Decompressed with Brotli, `label.codes` are signed whole numbers of `label.width` bytes each, all lowest bytes first,
then all second ones. As an array [columns of `label.basis`, items], transposed, they give logits =
codes * `label.step` @ `label.basis`.T + `label.mean`, each row up to a constant that no softmax sees.""",
}
SEEN = """\
A label belongs to a view of an item, row i * {views.count} + v to view v of item i, and students see the views in turn.
For view v, item i is put into a black border of {views.crop} pixels, cut out again from row a and column b on, and
mirrored if m is 1:

```python
key = hashlib.blake2b(f"{views.seed}\\x1fviews\\x1f{{v}}".encode(), digest_size=8).digest()
word = int(numpy.random.Philox(key=int.from_bytes(key, "little") >> 1).random_raw(i + 1)[i])
a, b, m = word % {side}, word // {side} % {side}, {mirrored}
```
"""
BOXES = """\
Each item has {boxes.count} labels, row i * {boxes.count} + v for label v of item i: {first} of its {boxes.grid} x
{boxes.grid} boxes, row by row. A box has {height} x {width} pixels. Boxes begin at the rows {rows} and the columns
{columns}, counted from 0, and each is stretched to the whole item: bilinear, corners not aligned, nothing outside of
the box.
"""
RECORDED = """\
`labels/` holds {recording.count:,} recorded batches of {recording.batch} items, {per_file} in each file but the last,
in the order in which students see them; after the last one they begin anew. Row b of batch n of a file shows item
`view.rows[n, b]`; the other arrays `view.*` say how it was cropped, mirrored and mixed. Its logits are the i-th of the
file, i = n * {recording.batch} + b. {how}"""
WHOLE = """\
Item i: `label.codes[i]` holds a code of {bits} bits per class, packed from the lowest bit on
(`numpy.unpackbits(..., bitorder="little")`); logit = `label.scale[i, 0] + code * label.scale[i, 1]`."""


def _pictures(pictures: Pictures, *, made: bool, own: tuple[str, str] | None) -> tuple[str, str]:
    """Return what the set holds, and how its items are opened."""
    codec = pictures.codec
    height, width = pictures.pixels.shape[2:]
    opens = PACKED_OPENS.format(tiles=codec.tiles, height=height, width=width) if codec.packed else ""
    if own is not None:
        return own[0], opens + own[1]
    built = ADDED if made else PLAIN
    if pictures.encoded is not None and not codec.packed and "" in pictures.ids:
        return ITEM_FILES_HOLD, built
    lost = "" if codec.lossless else ", but for what the codec lost"
    coded = "losslessly coded" if codec.lossless else f"coded as {codec.format.upper()} of quality {codec.quality}"
    holds = PACKED_HOLDS if codec.packed else UNPACKED_HOLDS
    return holds.format(coded=coded, lost=lost, tiles=codec.tiles), opens + built


def _logits(labels: Labels, shape: tuple[int, int, int]) -> str:
    """Return how soft labels are read."""
    if labels.values is None and labels.records is None:
        return ""
    codec = labels.codec
    how = WHOLE.format(bits=codec.bits) if codec.bits else LOGITS[codec.kind]
    if labels.records is not None:
        records = labels.records
        return "\n" + RECORDED.format(recording=records.recording, per_file=records.per_file, how=how)
    told = f"\nLogits stand in `labels/logits.safetensors`, in the order of the items. {how}"
    return told if labels.views is None else f"{told}\n\n{_seen(labels.views, shape)}"


def _seen(views: SeededViews | FixedBoxes, shape: tuple[int, int, int]) -> str:
    """Return how the views that labels belong to are rebuilt."""
    if isinstance(views, FixedBoxes):
        height, width = (box_side(side, views.ratio, views.ratio_of) for side in shape[1:])
        rows, columns = (
            ", ".join(map(str, corners(side, box, views.grid)))
            for side, box in zip(shape[1:], (height, width), strict=True)
        )
        first = "the first is that of the whole item, and the others are those" if views.whole else "those"
        return BOXES.format(boxes=views, height=height, width=width, rows=rows, columns=columns, first=first)
    side = 2 * views.crop + 1
    mirrored = f"word // {side**2} % 2" if views.flip else "0"
    return SEEN.format(views=views, side=side, mirrored=mirrored)


def card(
    recipe: Recipe,
    info: DatasetInfo,
    classes: tuple[str, ...],
    facts: dict[str, Any],
    labels: Labels,
    pictures: Pictures,
    *,
    made: bool,
    own: tuple[str, str] | None = None,
) -> str:
    """Return the text of README.md.

    made: whether something is added to pictures to make items. own: what the store says instead of what the set holds
    and how its items are opened (see `Store.told`).
    """
    known = methods().get(recipe.method)
    counts = facts.get("counts", {})
    tells = TELLS[labels.kind].format(of="item" if labels.views is None else "view of an item")
    holds, built = _pictures(pictures, made=made, own=own)
    # Beside "extra" stands no budget that ipc would be the size of.
    size = "" if "extra" in counts else f" at a nominal {recipe.ipc} images per class"
    bought = ", ".join(f"{k} {v}" for k, v in sorted(counts.items()) if isinstance(v, int))
    files = "" if pictures.codec.packed else CONFIGS
    opens = "Tables are Parquet files" if pictures.codec.packed else OPENS
    return f"""---
license: other
task_categories: [image-classification]
tags: [dataset-distillation, {recipe.method}]
{files}---

# {info.name}, distilled with {known.title if known else recipe.method}

{len(classes)} classes, {info.shape[0]} x {info.shape[1]} x {info.shape[2]} pixels (channels, height, width), made from
{info.train_images} training images{size}. Labels: {tells}.
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

{opens}; arrays and labels are safetensors files.
{built}{_logits(labels, info.shape)}
`manifest.json` holds the recipe, versions, counts and hashes.
"""
