"""The page of dense labels: its bytes are those of the codecs, and its views, controls and boxes those of the code."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest
import torch

from datastill.codecs import LabelCodec, encode_labels
from datastill.label import Dense
from datastill.recipe import method
from datastill.training.boxes import box_side, corners
from reference.pages import PAGES, codes, table

CODECS = (LabelCodec(kind="fp16"), LabelCodec(kind="int4"), LabelCodec(kind="topk", k=5))
BOXES = Dense().grid ** 2 + 1


def stored(rows: int, classes: int, codec: LabelCodec) -> int:
    """Return the bytes of arrays that grow with the rows."""
    made = [encode_labels(torch.zeros(n, classes), codec) for n in (rows, 2 * rows)]
    one, two = (sum(a.numel() * a.element_size() for a in arrays.values()) for arrays in made)
    return two - one


@pytest.mark.parametrize("row", table("ladd.md", "bytes"), ids=lambda row: f"{row[0]} at {row[1]}")
def test_the_bytes_of_an_images_labels_are_those_of_their_codecs(row: list[str]) -> None:
    classes, side = int(row[0]), int(row[1])
    picture = 3 * side**2
    assert row[2] == f"{picture:,}"
    assert row[3] == f"{stored(1, classes, CODECS[0]):,}"
    for cell, codec in zip(row[4:], CODECS, strict=True):
        size = stored(BOXES, classes, codec)
        assert cell == f"{size:,} ({100 * size / picture:.0f} %)"


def test_the_page_names_every_way_to_show_boxes_and_every_control() -> None:
    named = set(codes("ladd.md"))
    assert set(get_args(get_type_hints(Dense)["views"])) <= named
    controls = {control.name for name in ("ladd-infer", "ladd-random") for control in method(name).controls}
    assert controls <= named


def test_boxes_stand_where_the_page_says() -> None:
    box = box_side(32, Dense().ratio)
    said = f"At 32 pixels a box has {box}, and boxes begin at {', '.join(map(str, corners(32, box, 5)[:-1]))} and 12."
    assert said in " ".join(PAGES["ladd.md"].split())
