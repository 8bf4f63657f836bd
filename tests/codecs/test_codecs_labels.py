"""Codecs of labels: how far a logit may move, what that does to a student's loss, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from datastill.codecs import LabelCodec, decode_labels, encode_labels, label_error, label_problems
from datastill.errors import DatastillError
from datastill.settings import build
from datastill.training.losses import soft_kl

WHOLE = ["int8", "int6", "int5", "int4", "int3"]
KINDS = ["fp32", "fp16", *WHOLE, "topk", "klt"]


def logits(items: int = 400, classes: int = 20, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Rows as networks make them: correlated classes, one large value, an offset that no softmax sees."""
    draw = np.random.default_rng(seed)
    mixing = draw.normal(size=(classes, classes)) * np.arange(1, classes + 1) ** -0.7
    rows = draw.normal(size=(items, classes)) @ mixing.T * 2
    rows[np.arange(items), draw.integers(0, classes, items)] += 8
    return torch.from_numpy((rows * scale + draw.normal(size=(items, 1))).astype(np.float32))


def codec(kind: str, **settings: Any) -> LabelCodec:
    return LabelCodec(kind=kind, **{"k": 5} | settings)  # type: ignore[arg-type]  # a name of the list


def back(values: Tensor, how: LabelCodec) -> Tensor:
    return decode_labels(encode_labels(values, how), *values.shape, how)  # type: ignore[call-arg]  # two of them


def stored(arrays: dict[str, Tensor]) -> int:
    return sum(a.numel() * a.element_size() for a in arrays.values())


def centred(values: Tensor) -> Tensor:
    return values - values.mean(dim=1, keepdim=True)


@pytest.mark.parametrize("kind", KINDS)
def test_encoding_is_deterministic_and_leaves_the_values_alone(kind: str) -> None:
    values = logits()
    before = values.clone()
    one, two = encode_labels(values, codec(kind)), encode_labels(values, codec(kind))
    assert torch.equal(values, before)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    found = back(values, codec(kind))
    assert found.dtype == torch.float32
    assert found.shape == values.shape


def test_wide_floats_are_exact_and_half_floats_are_halves() -> None:
    values = logits()
    assert torch.equal(back(values, codec("fp32")), values)
    assert torch.equal(back(values, codec("fp16")), values.half().float())


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_whole_steps_are_at_most_half_a_stored_step_off(kind: str, scale: float) -> None:
    values = logits(scale=scale)
    values[0] = 3.7  # a row without a range
    values[1] = 1000.0 + torch.linspace(0, 1e-3, 20)  # one whose offset is coarser than its range
    arrays = encode_labels(values, codec(kind))
    offset, step = arrays["scale"].double().T
    found = decode_labels(arrays, *values.shape, codec(kind))  # type: ignore[call-arg]  # two of them
    off = (found.double() - values.double()).abs().amax(dim=1)
    assert (off <= step / 2 + 1e-6 * values.abs().amax(dim=1)).all()
    assert (offset <= values.double().amin(dim=1)).all()
    bits = int(kind[3:])
    assert arrays["codes"].shape == (400, -(-20 * bits // 8))


@pytest.mark.parametrize("kind", WHOLE)
def test_packed_codes_are_read_by_hand_bit_by_bit(kind: str) -> None:
    values, bits = logits(7, 13), int(kind[3:])
    arrays = encode_labels(values, codec(kind))
    found = back(values, codec(kind))
    for row in range(7):
        stream = "".join(f"{byte:08b}"[::-1] for byte in arrays["codes"][row].tolist())
        low, step = arrays["scale"][row].tolist()
        for k in range(13):
            code = int(stream[k * bits : (k + 1) * bits][::-1], 2)
            assert float(found[row, k]) == pytest.approx(low + code * step, abs=1e-5)


def test_labels_weigh_what_the_page_says() -> None:
    values = logits(1000, 100)
    weighed = {kind: stored(encode_labels(values, codec(kind, k=10))) / 1000 for kind in KINDS}
    wanted = {"fp32": 400, "fp16": 200, "int8": 104, "int6": 79, "int5": 67, "int4": 54, "int3": 42, "topk": 22.004}
    assert {kind: weighed[kind] for kind in wanted} == wanted
    assert weighed["klt"] < weighed["int4"]


@pytest.mark.parametrize("kind", ["fp16", *WHOLE])
def test_the_largest_logit_stays_where_its_margin_exceeds_the_worst_error(kind: str) -> None:
    values = logits()
    found = back(values, codec(kind))
    worst = (found - values).abs().amax(dim=1)
    top = values.topk(2, dim=1).values
    safe = top[:, 0] - top[:, 1] > 2 * worst
    assert safe.any()
    assert torch.equal(found.argmax(dim=1)[safe], values.argmax(dim=1)[safe])


def test_the_largest_values_are_kept_within_half_a_step_and_the_others_become_their_mean() -> None:
    values = logits()
    arrays = encode_labels(values, codec("topk"))
    found, step = back(values, codec("topk")), float(arrays["step"])
    largest = values.topk(5, dim=1).indices
    assert torch.equal(arrays["index"].long().sort(dim=1).values, largest.sort(dim=1).values)
    assert ((found - values).gather(1, largest).abs() <= step / 2 + 1e-5).all()
    for row in range(len(values)):
        others = torch.ones(20, dtype=torch.bool)
        others[largest[row]] = False
        assert found[row, others].unique().tolist() == [float(values[row, others].mean().half())]


@pytest.mark.parametrize(("classes", "kind"), [(256, torch.uint8), (257, torch.int16), (40_000, torch.int32)])
def test_indices_are_as_small_as_the_classes_allow(classes: int, kind: torch.dtype) -> None:
    values = torch.randn((3, classes), generator=torch.Generator().manual_seed(0))
    arrays = encode_labels(values, codec("topk"))
    assert arrays["index"].dtype == kind
    assert torch.equal(back(values, codec("topk")).argmax(dim=1), values.argmax(dim=1))


# --- the rotation ---


@pytest.mark.parametrize("error", [0.001, 0.01, 0.05, 0.2])
def test_the_rotation_loses_the_share_that_was_asked_for(error: float) -> None:
    values = logits(600)
    found = back(values, codec("klt", error=error))
    lost = (centred(found) - centred(values)).square().sum() / centred(values).square().sum()
    assert float(lost) == pytest.approx(error, rel=0.02)
    assert label_error(values, found)["kl"]["30"] == pytest.approx(error, rel=0.1)


def test_the_rotation_without_error_is_the_identity_up_to_each_rows_mean() -> None:
    values = logits()
    found = back(values, codec("klt", error=1e-9))
    assert (centred(found) - centred(values)).abs().max() < 2e-3
    assert found.mean(dim=1).abs().max() < 2e-3


def test_a_smaller_error_costs_more_bytes() -> None:
    values = logits(1000, 50)
    weighed = [stored(encode_labels(values, codec("klt", error=e))) for e in (0.001, 0.01, 0.1)]
    assert weighed == sorted(weighed, reverse=True)


def test_coefficients_are_within_half_a_step() -> None:
    values = logits()
    arrays = encode_labels(values, codec("klt"))
    basis = arrays["basis"].double()
    x = centred(values).double() - arrays["mean"].double()
    found = back(values, codec("klt")).double() - arrays["mean"].double()
    exact, coded = (torch.linalg.lstsq(basis, y.T).solution for y in (x, found))
    assert (exact - coded).abs().max() <= float(arrays["step"]) * 0.5001 + 1e-5


def test_a_column_that_does_not_pay_for_its_axis_is_left_out() -> None:
    few, many = (encode_labels(logits(n, 60), codec("klt", error=0.05))["basis"].shape[1] for n in (40, 4000))
    assert few < many < 60


def test_codes_of_more_than_a_byte_come_back() -> None:
    values = logits()
    for error, width in ((0.05, 1), (1e-5, 2), (1e-9, 4)):
        arrays = encode_labels(values, codec("klt", error=error))
        assert arrays["width"].tolist() == [width]
        assert label_error(values, back(values, codec("klt", error=error)))["kl"]["30"] < 1.1 * error + 1e-8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("items", "classes"), [(0, 6), (1, 6), (3, 6), (50, 6)])
def test_few_rows_have_a_form_too(kind: str, items: int, classes: int) -> None:
    values = logits(items, classes) if items else torch.zeros((0, classes))
    found = back(values, codec(kind, error=0.01))
    assert found.shape == values.shape
    if items and kind not in ("topk", "int3"):
        assert label_error(values, found)["kl"]["4"] < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_all_the_same_have_a_form_too(kind: str) -> None:
    values = torch.full((30, 8), 2.0)
    assert centred(back(values, codec(kind))).abs().max() < 1e-3


# --- what is lost ---


def test_the_error_is_the_divergence_of_the_students_loss_and_mean_squares_at_high_temperature() -> None:
    values = logits(300)
    found = back(values, codec("int4"))
    for t in (1.0, 4.0, 30.0):
        uniform = torch.zeros_like(values)
        share = float(soft_kl(found, values, t) / soft_kl(uniform, values, t))
        assert label_error(values, found)["kl"][f"{t:g}"] == pytest.approx(share, rel=0.02)
    squares = (centred(found) - centred(values)).square().sum(dim=1).mean() / (2 * 20 * 30.0**2)
    assert float(soft_kl(found, values, 30.0)) == pytest.approx(float(squares), rel=0.01)


def test_labels_that_come_back_whole_lose_nothing() -> None:
    values = logits()
    assert label_error(values, values + 3.0, (1.0, 30.0)) == {
        "kl": {"1": pytest.approx(0, abs=1e-9), "30": pytest.approx(0, abs=1e-9)}, "top1": 1.0,
    }  # fmt: skip
    assert label_error(values, -values)["top1"] < 0.2


def test_few_values_suffice_at_low_temperature_and_whole_steps_at_high() -> None:
    sharp = logits(500, 100, scale=2.5)
    lost = {kind: label_error(sharp, back(sharp, codec(kind, k=10)))["kl"] for kind in ("topk", "int4")}
    assert lost["topk"]["1"] < lost["topk"]["30"]
    assert lost["int4"]["30"] < lost["topk"]["30"]


# --- refusals ---


def edited(kind: str, edit: Callable[[dict[str, Tensor]], object]) -> None:
    values = logits(10, 6)
    arrays = encode_labels(values, codec(kind))
    edit(arrays)
    with pytest.raises(DatastillError, match="'a file'") as error:
        decode_labels(arrays, 10, 6, codec(kind), "a file")
    assert str(error.value).endswith(".")


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_another_form_are_refused(kind: str) -> None:
    name = next(iter(encode_labels(logits(10, 6), codec(kind))))
    edited(kind, lambda a: a.pop(name))
    edited(kind, lambda a: a.update(more=torch.zeros(1)))
    edited(kind, lambda a: a.update({name: a[name].double()}))
    edited(kind, lambda a: a.update({name: a[name][None]}))


@pytest.mark.parametrize("kind", ["fp32", "fp16", *WHOLE, "topk"])
def test_another_number_of_items_is_refused(kind: str) -> None:
    name = "logits" if kind.startswith("fp") else "codes"
    edited(kind, lambda a: a.update({name: a[name][:9].clone()}))


@pytest.mark.parametrize(("kind", "name"), [("fp16", "logits"), ("int4", "scale"), ("topk", "rest"), ("klt", "mean")])
def test_labels_that_are_no_numbers_are_refused(kind: str, name: str) -> None:
    edited(kind, lambda a: a[name].view(-1)[0].fill_(float("nan")))


def test_indices_that_point_nowhere_are_refused() -> None:
    edited("topk", lambda a: a["index"].view(-1)[0].fill_(6))


@pytest.mark.parametrize("size", [0, 59, 61, 10**8])
def test_codes_that_are_larger_or_smaller_than_declared_are_refused(size: int) -> None:
    """A small file may claim to become a large one: no more is unpacked than N, K and the basis imply."""
    bomb = np.frombuffer(pa.Codec("brotli").compress(b"\0" * size, asbytes=True), np.uint8).copy()
    edited("klt", lambda a: a.update(codes=torch.from_numpy(bomb), basis=torch.zeros(6, 6).half()))


def test_damaged_codes_and_odd_bases_are_refused() -> None:
    edited("klt", lambda a: a.update(codes=a["codes"][:-3].clone()))
    edited("klt", lambda a: a.update(codes=torch.full((40,), 255, dtype=torch.uint8)))
    edited("klt", lambda a: a.update(basis=torch.zeros(6, 7).half()))
    edited("klt", lambda a: a.update(basis=torch.zeros(6, 0).half()))
    edited("klt", lambda a: a["width"].fill_(3))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 7e4])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_that_have_no_short_form_are_refused(kind: str, value: float) -> None:
    values = logits(10, 6)
    values[3, 2] = value
    with pytest.raises(DatastillError, match="have no label codec"):
        encode_labels(values, codec(kind))


def test_as_many_values_as_classes_are_refused() -> None:
    assert "k=5 for 5 classes" in label_problems(codec("topk"), 5)[0]
    assert not label_problems(codec("topk"), 6)
    with pytest.raises(DatastillError, match="ask for fewer than there are"):
        encode_labels(logits(4, 5), codec("topk"))


def test_an_arrow_without_brotli_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pa, "Codec", SimpleNamespace(is_available=lambda name: False))
    assert "needs a PyArrow that was built with Brotli" in label_problems(codec("klt"), 6)[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [({"kind": "int7"}, "'codec.kind' is 'int7'"), ({"k": 0}, "'codec.k' must be at least 1"),
     ({"error": 0}, "'codec.error' must be between"), ({"bits": 3}, "there is no setting 'codec.bits'")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(given: dict[str, object], said: str) -> None:
    mistakes: list[str] = []
    assert build(LabelCodec, given, "codec", mistakes) is None
    assert said in mistakes[0]


def test_codecs_are_plain_values() -> None:
    assert dataclasses.replace(codec("klt"), error=0.02) == codec("klt", error=0.02)
    assert [codec(kind).bits for kind in KINDS] == [0, 0, 8, 6, 5, 4, 3, 0, 0]
