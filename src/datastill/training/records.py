"""Batches as arrays: which items a batch shows, and every drawn value of its view; enough to make that batch again.

n batches of B items of a set of N; pictures of H x W pixels. What was drawn is stored, not only its seed: NumPy does
not promise that its next version draws the same numbers from a generator, and a receiver may have none.

| array | shape | what it is |
|---|---|---|
| rows | [n, B] | the items |
| tiles | uint8 [n, B, 2, f] | the order of the strips of rows and of columns |
| shift | uint8 [n, B, 2] | row and column of the crop out of the bordered picture |
| window | float32 [n, B, 4] | top, left, height, width of a resized crop, as shares of a side |
| flip | uint8 [n, ceil(B / 8)] | whether an item is mirrored, a bit each, from the lowest on |
| hole | int16 [n, B, 2] | the middle of a black square |
| partner | [n, B] | with which item of the batch each is mixed |
| lam | float64 [n] | the share of the item itself |
| box | int16 [n, 4] | top, bottom, left, right of what comes from the partner |

rows and partner have the smallest of uint8, int16 and int32 that holds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datastill.errors import DatastillError
from datastill.recipe import TrainRecipe
from datastill.training.views import View

Drawn = tuple[np.ndarray, View]  # rows long[B], and what was drawn for them
Form = dict[str, tuple[torch.dtype, tuple[int, ...]]]


def form_of(recipe: TrainRecipe, items: int) -> Form:
    """Return type and shape, for one batch, of every array that records batches of `items` items under a recipe."""
    size = recipe.batch
    form: Form = {"rows": (_least(items), (size,))}
    if recipe.shuffle_tiles > 1:
        form["tiles"] = (torch.uint8, (size, 2, recipe.shuffle_tiles))
    if recipe.resized_crop is not None:
        form["window"] = (torch.float32, (size, 4))
    elif recipe.crop:
        form["shift"] = (torch.uint8, (size, 2))
    if recipe.flip:
        form["flip"] = (torch.uint8, (-(-size // 8),))
    if recipe.cutout:
        form["hole"] = (torch.int16, (size, 2))
    if recipe.mix != "none":
        form |= {"partner": (_least(size), (size,)), "lam": (torch.float64, ())}
    if recipe.mix == "cutmix":
        form["box"] = (torch.int16, (4,))
    return form


def _least(count: int) -> torch.dtype:
    """Return the smallest type for 0..count-1."""
    return torch.uint8 if count <= 1 << 8 else torch.int16 if count <= 1 << 15 else torch.int32


def pack(drawn: Sequence[Drawn], form: Form) -> dict[str, Tensor]:
    """Return the arrays of batches, whose views have exactly the parts that the form names."""
    assert all(view.inputs is None for _, view in drawn), "augmentation of network inputs has no array here"
    return {
        name: torch.stack([_array(name, rows, view) for rows, view in drawn]).to(dtype)
        for name, (dtype, _) in form.items()
    }


def _array(name: str, rows: np.ndarray, view: View) -> Tensor:
    if name == "rows":
        return torch.from_numpy(rows)
    value = getattr(view, name)
    if name == "flip":
        return torch.from_numpy(np.packbits(value.numpy(), bitorder="little"))
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def unpack(arrays: Mapping[str, Tensor], index: int, *, crop: int, cutout: int) -> Drawn:
    """Return the rows and the view of one batch, as they were drawn.

    Args:
        arrays: of `pack`, checked.
        index: which batch, 0..n-1.
        crop: width of the border that a shift is cut from, in pixels.
        cutout: side of the black square in pixels.
    """
    one = {name: array[index] for name, array in arrays.items()}
    rows = one.pop("rows").long().numpy()
    whole: dict[str, Any] = {n: one[n].long() for n in ("tiles", "shift", "hole", "partner") if n in one}
    if "flip" in one:
        bits = np.unpackbits(one["flip"].numpy(), count=len(rows), bitorder="little")
        whole["flip"] = torch.from_numpy(bits.astype(bool))
    if "window" in one:
        whole["window"] = one["window"]
    box = None
    if "box" in one:
        top, bottom, left, right = one["box"].tolist()
        box = (top, bottom, left, right)
    lam = float(one["lam"]) if "lam" in one else 1.0
    return rows, View(
        pad=crop if "shift" in one else 0, side=cutout if "hole" in one else 0, lam=lam, box=box, **whole
    )  # fmt: skip


def check_arrays(
    arrays: Mapping[str, Tensor],
    form: Form,
    batches: int,
    items: int,
    shape: tuple[int, int, int],
    crop: int,
    where: str,
) -> None:
    """Refuse arrays that record no batches: what a stranger's file may hold is checked before it is used.

    Args:
        arrays, form: what was found and what there should be.
        batches: n.
        items: N.
        shape: (C, H, W) of the pictures.
        crop: as in `unpack`.
        where: they stand, for errors.

    Raises: DatastillError for other names, types, shapes or values.
    """
    found = {name: (str(a.dtype), list(a.shape)) for name, a in sorted(arrays.items())}
    wanted = {name: (str(dtype), [batches, *tail]) for name, (dtype, tail) in sorted(form.items())}
    if found != wanted:
        raise DatastillError(f"'{where}' records batches as {found}, but the manifest says {wanted}.")
    height, width = shape[1:]
    sides = torch.tensor([height, height, width, width])
    bounds = {
        "rows": _below(arrays["rows"], torch.tensor(items)),
        "tiles": _permutes(arrays.get("tiles")),
        "shift": _below(arrays.get("shift"), torch.tensor(2 * crop + 1)),
        "window": _inside(arrays.get("window")),
        "hole": _below(arrays.get("hole"), torch.tensor([height, width])),
        "partner": _permutes(arrays.get("partner")),
        "lam": _shares(arrays.get("lam")),
        "box": _below(arrays.get("box"), sides + 1) & _ordered(arrays.get("box")),
    }
    wrong = [name for name, right in bounds.items() if not bool(right)]
    if wrong:
        raise DatastillError(f"'{where}' has values of '{wrong[0]}' that no batch of this set can have.")


def _below(values: Tensor | None, high: Tensor) -> Tensor:
    """Whether whole numbers are at least 0 and below `high`."""
    if values is None:
        return torch.tensor(True)
    whole = values.long()  # beside a byte, 256 would count as 0
    return ((whole >= 0) & (whole < high)).all()


def _shares(values: Tensor | None) -> Tensor:
    """Whether values are in 0..1; what is no number is not."""
    return torch.tensor(True) if values is None else ((values >= 0) & (values <= 1)).all()


def _permutes(values: Tensor | None) -> Tensor:
    """Whether the last axis holds each of 0, 1, 2, ... once."""
    if values is None:
        return torch.tensor(True)
    return (values.long().sort(dim=-1).values == torch.arange(values.shape[-1])).all()


def _inside(windows: Tensor | None) -> Tensor:
    """Whether windows [..., 4] have an area and lie in the picture, but for rounding."""
    if windows is None:
        return torch.tensor(True)
    corner, size = windows[..., :2], windows[..., 2:]
    return ((corner >= 0) & (size > 0) & (corner + size <= 1.0 + 1e-6)).all()


def _ordered(boxes: Tensor | None) -> Tensor:
    """Whether boxes [..., 4] end where they begin or later."""
    if boxes is None:
        return torch.tensor(True)
    return ((boxes[..., 0] <= boxes[..., 1]) & (boxes[..., 2] <= boxes[..., 3])).all()
