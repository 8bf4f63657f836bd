"""What every registered store must do: a new one is tested by existing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from datastill.artifact import DistilledDataset
from datastill.engine import distil
from datastill.fields import Content, Context, Labels, Store, registered
from datastill.recipe import choice
from datastill.runtime.progress import Reporter
from reference import tiny

STORES = sorted(registered("store"))


def started(name: str) -> tuple[Context, Store, Content]:
    """Return a context, its store, and an open content whose learned arrays were moved off their first values."""
    ctx = tiny.context(given={}, store=tiny.chosen("store", name), match=choice("none"))
    content = ctx.fields.store.begin(ctx)
    for i, array in enumerate(content.learned):
        values = content.arrays[array]
        noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(i))
        content.arrays[array] = values + 0.3 * noise
    ctx.fields.store.settle(content)
    return ctx, ctx.fields.store, content


@pytest.mark.parametrize("name", STORES)
def test_a_store_comes_back_from_disk_bit_for_bit(name: str, tmp_path: Path) -> None:
    recipe = tiny.recipe(store=tiny.chosen("store", name), label=choice("hard"), match=choice("none"))
    made = distil(tiny.dataset(), recipe, device=tiny.device(), reporter=Reporter(), out=tmp_path / "set")
    loaded = DistilledDataset.load(tmp_path / "set")
    assert loaded.recipe == made.recipe
    assert torch.equal(loaded.expand().images, made.expand().images)
    assert torch.equal(loaded.expand().cls, made.expand().cls)
    for column in ("cls", "stage", "set", "maker", "unit", "picture"):
        assert torch.equal(getattr(loaded.content.items, column), getattr(made.content.items, column))
    assert loaded.content.arrays.keys() == made.content.arrays.keys()
    for key, array in loaded.content.arrays.items():
        assert array.dtype == made.content.arrays[key].dtype
        assert torch.equal(array, made.content.arrays[key])


@pytest.mark.parametrize("name", STORES)
def test_a_learned_store_comes_back_from_disk_bit_for_bit(name: str, tmp_path: Path) -> None:
    ctx, store, content = started(name)
    sealed = store.seal(content)
    labels = Labels("logits", torch.zeros(len(sealed.items), ctx.info.classes).half())
    made = DistilledDataset(ctx.recipe, ctx.info, ctx.real.classes, sealed, labels)
    made.save(tmp_path)
    assert torch.equal(DistilledDataset.load(tmp_path).expand().images, store.expand(sealed))


@pytest.mark.parametrize("name", STORES)
def test_items_of_a_store_point_at_what_is_there(name: str) -> None:
    ctx, _, content = started(name)
    items = content.items
    assert len(items) == len(items.cls) > 0
    assert items.cls.min() == 0
    assert items.cls.max() == ctx.info.classes - 1
    assert (items.picture < len(content.pictures.cls)).all()
    real = items.picture >= 0
    assert torch.equal(content.pictures.cls[items.picture[real]], items.cls[real])
    for array in content.learned:
        assert items.unit.max() == len(content.arrays[array]) - 1
    assert (items.maker < len(ctx.makers)).all()


@pytest.mark.parametrize("name", STORES)
def test_decode_of_a_sealed_store_is_what_expand_returns(name: str) -> None:
    _, store, content = started(name)
    sealed = store.seal(content)
    images, x = store.expand(sealed), store.decode(sealed, torch.arange(len(sealed.items)))
    assert images.dtype in (torch.uint8, torch.float32)
    assert x.dtype == torch.float32
    assert x.min() >= 0
    assert x.max() <= 1
    assert torch.equal(images, (x * 255).round().to(torch.uint8) if images.dtype == torch.uint8 else x)


@pytest.mark.parametrize("name", STORES)
def test_sealing_leaves_the_open_content_alone(name: str) -> None:
    _, store, content = started(name)
    before = {key: value.clone() for key, value in content.arrays.items()}
    pixels = content.pictures.pixels.clone()
    store.expand(store.seal(content))
    assert all(torch.equal(content.arrays[key], value) for key, value in before.items())
    assert torch.equal(content.pictures.pixels, pixels)


@pytest.mark.parametrize("name", STORES)
def test_a_store_begins_the_same_every_time_and_otherwise_under_another_seed(name: str) -> None:
    chosen = tiny.chosen("store", name)
    contexts = [tiny.context(given={}, store=chosen, match=choice("none"), seed=seed) for seed in (0, 0, 1)]
    first, again, other = contents = [ctx.fields.store.begin(ctx) for ctx in contexts]
    store = contexts[0].fields.store
    x, same, changed = (store.decode(made, torch.arange(len(made.items)), open=True) for made in contents)
    assert torch.equal(x, same)
    assert not torch.equal(x, changed)
    assert first.pictures.ids == again.pictures.ids
    assert first.pictures.ids != other.pictures.ids or not first.pictures.ids


@pytest.mark.parametrize("name", STORES)
def test_facts_of_a_store_are_plain_data_that_count_its_items(name: str) -> None:
    ctx, store, content = started(name)
    facts = store.facts(content, ctx)
    assert facts["items"] == len(content.items)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


@pytest.mark.parametrize("name", STORES)
def test_the_gradient_at_the_pixels_reaches_everything_that_is_learned(name: str) -> None:
    _, store, content = started(name)
    for array in content.learned:
        content.arrays[array] = content.arrays[array].detach().requires_grad_()
    x = store.decode(content, torch.arange(len(content.items)), open=True)
    assert x.requires_grad == bool(content.learned)
    if content.learned:
        x.sum().backward()
    for array in content.learned:
        gradient = content.arrays[array].grad
        assert gradient is not None
        assert gradient.isfinite().all()
        assert (gradient.flatten(1).abs().sum(dim=1) > 0).all()
