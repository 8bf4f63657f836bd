"""The released habit of the compensated store: every item rendered, truncated and kept as a JPEG file."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, JpegImagePlugin

from datastill.artifact import DistilledDataset
from datastill.codecs import PictureCodec
from datastill.engine import distil
from datastill.fields import Content, Context
from datastill.recipe import choice
from datastill.runtime.progress import Reporter
from datastill.sources import Dataset
from datastill.store import Compensated
from reference import tiny


def opened(**changes: Any) -> tuple[Context, Content]:
    """Return a context on networks that are never asked, and its freshly opened content."""
    ctx = tiny.context(given={}, **changes)
    return ctx, ctx.fields.store.begin(ctx)


def with_patterns(content: Content, scale: float = 0.5, seed: int = 0) -> Content:
    """Return the content with random compensators, of this deviation in normalised units."""
    u = torch.randn(content.arrays["compensators"].shape, generator=torch.Generator().manual_seed(seed))
    return replace(content, arrays=content.arrays | {"compensators": scale * u})


def grey(value: int) -> Dataset:
    """Return a set of flat grey pictures, which JPEG keeps exactly."""
    made = tiny.dataset()
    flat = replace(made.train, pixels=torch.full_like(made.train.pixels, value))
    return replace(made, train=flat, fingerprint=f"flat {value}")


def test_jpeg75_truncates_before_it_encodes() -> None:
    ctx = tiny.context(grey(100), given={}, store=choice("compensated", storage="jpeg75"), ipc=2)
    content = ctx.fields.store.begin(ctx)
    content.arrays["compensators"] += (0.9 / 255) / content.arrays["std"]
    images = ctx.fields.store.expand(ctx.fields.store.seal(content))
    assert images.unique().tolist() == [100]
    exact, made = Compensated(storage="fp16"), content.items.unit >= 0
    assert exact.expand(exact.seal(content))[made].unique().tolist() == [101]


def test_jpeg75_keeps_every_item_as_a_file_of_quality_75_with_halved_chroma() -> None:
    ctx, content = opened(ipc=5, store=choice("compensated", storage="jpeg75"))
    content = with_patterns(content)
    sealed = ctx.fields.store.seal(content)
    assert not sealed.arrays
    assert sealed.pictures.codec == PictureCodec(format="jpeg", quality=75, chroma="420")
    assert sealed.pictures.encoded is not None
    assert torch.equal(sealed.items.picture, torch.arange(len(content.items)))
    plain = Compensated(render="float").decode(content, torch.arange(len(content.items)))
    reference = io.BytesIO()
    Image.new("RGB", (8, 8)).save(reference, "JPEG", quality=75, subsampling="4:2:0")
    tables = Image.open(reference).quantization  # type: ignore[attr-defined]  # of JPEG files only
    for i, data in enumerate(sealed.pictures.encoded):
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "JPEG"
            assert image.quantization == tables  # type: ignore[attr-defined]
            assert JpegImagePlugin.get_sampling(image) == 2
            assert np.array_equal(np.array(image).transpose(2, 0, 1), sealed.pictures.pixels[i].numpy())
        again = io.BytesIO()
        truncated = (plain[i] * 255).to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(truncated).save(again, "JPEG", quality=75)
        assert again.getvalue() == data
    assert torch.equal(ctx.fields.store.expand(sealed), sealed.pictures.pixels)


def test_jpeg75_names_the_real_images_among_its_files() -> None:
    ctx, content = opened(ipc=5, store=choice("compensated", storage="jpeg75"))
    sealed = ctx.fields.store.seal(content)
    wanted = [
        content.pictures.ids[int(p)] if u < 0 else ""
        for p, u in zip(content.items.picture, content.items.unit, strict=True)
    ]
    assert list(sealed.pictures.ids) == wanted
    assert torch.equal(sealed.pictures.cls, content.items.cls)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg75_survives_the_artifact_to_the_bit(channels: int, tmp_path: Path) -> None:
    data = tiny.dataset(shape=(channels, 8, 8))
    recipe = tiny.recipe(store=choice("compensated", storage="jpeg75"), label=choice("hard"))
    made = distil(data, recipe, device=tiny.device(), reporter=Reporter(), out=tmp_path / "set")
    loaded = DistilledDataset.load(tmp_path / "set")
    assert torch.equal(loaded.expand().images, made.expand().images)
    assert loaded.content.pictures.encoded == made.content.pictures.encoded
    assert loaded.save(tmp_path / "again").is_dir()
    first, second = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("set", "again"))
    assert first["files"]["images.parquet"] == second["files"]["images.parquet"]
    assert "losslessly" not in (tmp_path / "set" / "README.md").read_text()
