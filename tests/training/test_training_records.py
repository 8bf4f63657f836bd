"""Batches as arrays: everything that is drawn comes back, and nothing that no batch can hold is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datastill.errors import DatastillError
from datastill.recipe import TrainRecipe
from datastill.training.records import Drawn, check_arrays, form_of, pack, unpack
from datastill.training.supply import draw_batch
from datastill.training.views import View

SHAPE = (3, 12, 8)
PLAIN = TrainRecipe(batch=11, crop=0, flip=False)
RECIPES = {
    "nothing": PLAIN,
    "crops": TrainRecipe(batch=11, crop=2, flip=True),
    "mixup": TrainRecipe(batch=11, crop=1, flip=False, mix="mixup"),
    "everything": TrainRecipe(batch=11, crop=3, flip=True, mix="cutmix", cutout=5, shuffle_tiles=3),
    "windows": TrainRecipe(batch=11, crop=3, resized_crop=0.3, flip=True, mix="cutmix", mix_alpha=1.0),
}


def drawn(recipe: TrainRecipe, items: int = 25, count: int = 6) -> list[Drawn]:
    return [draw_batch(recipe.work(items), SHAPE, recipe, 3, step) for step in range(count)]


def same(one: Any, two: Any) -> bool:
    return torch.equal(one, two) if isinstance(one, Tensor) and isinstance(two, Tensor) else bool(one == two)


def checked(
    arrays: dict[str, Tensor], recipe: TrainRecipe, batches: int = 6, items: int = 25, shape: Any = SHAPE
) -> None:
    check_arrays(arrays, form_of(recipe, items), batches, items, shape, recipe.crop, "x.safetensors")


@pytest.mark.parametrize("name", RECIPES)
def test_rows_and_every_value_of_a_view_come_back_as_they_were_drawn(name: str) -> None:
    recipe = RECIPES[name]
    made = drawn(recipe)
    arrays = pack(made, form_of(recipe, 25))
    checked(arrays, recipe)
    for index, (rows, view) in enumerate(made):
        order, seen = unpack(arrays, index, crop=recipe.crop, cutout=recipe.cutout)
        assert order.dtype == np.int64
        assert np.array_equal(order, rows)
        for field in fields(View):
            assert same(getattr(seen, field.name), getattr(view, field.name)), field.name


def test_a_view_has_no_part_that_is_not_recorded() -> None:
    """A new part of a view needs an array here, or records of it would show students something else.

    `inputs` has none: label 'replayed' refuses recipes that draw them, and `pack` as well.
    """
    kept = set(form_of(RECIPES["everything"], 25)) | set(form_of(RECIPES["windows"], 25))
    assert {field.name for field in fields(View)} == kept - {"rows"} | {"pad", "side", "inputs"}
    recipe = replace(RECIPES["everything"], augment="one")
    with pytest.raises(AssertionError, match="has no array here"):
        pack(drawn(recipe), form_of(recipe, 25))


@pytest.mark.parametrize(
    ("items", "batch", "rows", "partner"),
    [(256, 256, torch.uint8, torch.uint8), (257, 257, torch.int16, torch.int16), (1 << 15, 9, torch.int16, torch.uint8),
     ((1 << 15) + 1, 9, torch.int32, torch.uint8)],
)  # fmt: skip
def test_numbers_take_the_fewest_bytes_that_hold_them(items: int, batch: int, rows: Any, partner: Any) -> None:
    recipe = TrainRecipe(batch=batch, crop=0, mix="mixup")
    form = form_of(recipe, items)
    assert (form["rows"][0], form["partner"][0]) == (rows, partner)
    last = np.full(batch, items - 1)
    arrays = pack([(last, View.draw(np.random.default_rng(0), batch, SHAPE, recipe))], form)
    checked(arrays, recipe, 1, items)
    order, view = unpack(arrays, 0, crop=0, cutout=0)
    assert np.array_equal(order, last)
    assert view.partner is not None
    assert view.partner.sort().values.tolist() == list(range(batch))


def test_a_record_weighs_what_its_table_says() -> None:
    recipe = RECIPES["everything"]
    size = {name: a.numel() * a.element_size() for name, a in pack(drawn(recipe), form_of(recipe, 25)).items()}
    assert size == {"rows": 66, "tiles": 396, "shift": 132, "flip": 12, "hole": 264, "partner": 66, "lam": 48,
                    "box": 48}  # fmt: skip


EDITS: list[tuple[str, Callable[[Tensor], Any], str]] = [
    ("rows", lambda a: a.fill_(25), "rows"),
    ("tiles", lambda a: a.fill_(1), "tiles"),
    ("shift", lambda a: a[2, 3].fill_(7), "shift"),
    ("hole", lambda a: a[0, 0].copy_(torch.tensor([0, 8])), "hole"),
    ("hole", lambda a: a[0, 0].fill_(-1), "hole"),
    ("partner", lambda a: a[5, 1].copy_(a[5, 0]), "partner"),
    ("lam", lambda a: a[1].fill_(1.01), "lam"),
    ("lam", lambda a: a[1].fill_(-0.01), "lam"),
    ("lam", lambda a: a[1].fill_(float("nan")), "lam"),
    ("box", lambda a: a[0].copy_(torch.tensor([3, 2, 0, 1])), "box"),
    ("box", lambda a: a[0].copy_(torch.tensor([0, 13, 0, 1])), "box"),
    ("box", lambda a: a[0].copy_(torch.tensor([0, 1, 0, 9])), "box"),
    ("box", lambda a: a[0].copy_(torch.tensor([-1, 1, 0, 1])), "box"),
]


@pytest.mark.parametrize(("name", "edit", "said"), EDITS)
def test_values_that_no_batch_can_have_are_refused(name: str, edit: Callable[[Tensor], Any], said: str) -> None:
    recipe = RECIPES["everything"]
    arrays = pack(drawn(recipe), form_of(recipe, 25))
    edit(arrays[name])
    with pytest.raises(DatastillError, match=rf"'x\.safetensors' has values of '{said}' that no batch of this set"):
        checked(arrays, recipe)


@pytest.mark.parametrize("value", [[-0.1, 0, 1, 1], [0, 0.5, 1, 0.6], [0, 0, 0, 1], [0, float("nan"), 1, 1]])
def test_windows_outside_the_picture_are_refused(value: list[float]) -> None:
    recipe = RECIPES["windows"]
    arrays = pack(drawn(recipe), form_of(recipe, 25))
    arrays["window"][1, 2] = torch.tensor(value)
    with pytest.raises(DatastillError, match="has values of 'window'"):
        checked(arrays, recipe)


@pytest.mark.parametrize(
    "edit",
    [lambda a: a.pop("flip"), lambda a: a.update(more=a["lam"]), lambda a: a.update(lam=a["lam"].float()),
     lambda a: a.update(rows=a["rows"][:5]), lambda a: a.update(partner=a["partner"][:, :9]), lambda a: a.clear()],
)  # fmt: skip
def test_arrays_of_other_names_types_or_shapes_are_refused(edit: Callable[[dict[str, Tensor]], Any]) -> None:
    recipe = RECIPES["everything"]
    arrays = pack(drawn(recipe), form_of(recipe, 25))
    edit(arrays)
    with pytest.raises(DatastillError, match=r"'x\.safetensors' records batches as .*, but the manifest says"):
        checked(arrays, recipe)
