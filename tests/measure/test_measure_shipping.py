"""A network that is sent: what is rounded, how far, and the bytes of the very file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from datastill.measure import student as measured
from datastill.measure.shipping import FORMS, Form, packed, ship, unpacked
from datastill.networks import Network, Space, create_network
from datastill.runtime.files import load_arrays, save_arrays
from datastill.training.predict import accuracy, predict
from reference import tiny

STATE = {
    "conv.weight": torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0)),
    "linear.weight": torch.randn(4, 7, generator=torch.Generator().manual_seed(1)),
    "norm.bias": torch.randn(6, generator=torch.Generator().manual_seed(2)),
    "norm.count": torch.tensor(12),
}


def network(width: int = 48) -> Network:
    space = Space(tiny.dataset().mean, tiny.dataset().std)
    return create_network("convnet", classes=4, shape=tiny.SHAPE, space=space, seed=3, width=width).eval()


def on_test() -> measured.Testing:
    test = tiny.dataset().test
    return measured.Testing(test.pixels, test.labels, "test")


@pytest.mark.parametrize("size", [1e-6, 1e-4, 1e-3, 1e-2, 1.0, 30.0, 1000.0])
def test_int8_is_off_by_at_most_half_a_step_of_its_channel_however_large_its_weights(size: float) -> None:
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        weight = size * torch.randn(16, 5, 3, 3, generator=draw) * torch.rand(16, 1, 1, 1, generator=draw)
        sent = packed({"w": weight}, "int8")
        step = sent["w.step"].float().view(-1, 1, 1, 1)
        assert (step > 0).all()
        assert ((unpacked(sent, {"w": weight})["w"] - weight).abs() <= step / 2 * (1 + 1e-5)).all()
        largest = weight.abs().amax(dim=(1, 2, 3), keepdim=True)
        assert (step <= largest / 127 * 1.002 + 2**-23).all(), "no step is larger than it has to be"


def test_channels_have_steps_of_their_own_and_zeros_stay_zeros() -> None:
    weight = torch.tensor([[127.0, -1.0, 64.0], [0.127, 0.0, -0.06], [0.0, 0.0, 0.0]])
    sent = packed({"w": weight}, "int8")
    assert sent["w"].dtype == torch.int8
    assert sent["w"].tolist()[0] == [127, -1, 64]
    assert sent["w"].tolist()[1][1] == 0
    assert sent["w.step"].shape == (3,)
    assert sent["w.step"][0] == 1.0
    assert (unpacked(sent, {"w": weight})["w"][2] == 0).all()


def test_names_and_types_of_what_is_sent() -> None:
    types = {form: {name: str(value.dtype)[6:] for name, value in packed(STATE, form).items()} for form in FORMS}
    assert types["fp32"] == {name: str(value.dtype)[6:] for name, value in STATE.items()}
    assert types["fp16"] == {
        "conv.weight": "float16", "linear.weight": "float16", "norm.bias": "float16", "norm.count": "int64",
    }  # fmt: skip
    assert types["int8"] == {
        "conv.weight": "int8", "conv.weight.step": "float16", "linear.weight": "int8", "linear.weight.step": "float16",
        "norm.bias": "float16", "norm.count": "int64",
    }  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_what_is_unpacked_has_the_names_types_and_shapes_of_the_network(form: Form, tmp_path: Path) -> None:
    save_arrays(tmp_path / "sent.safetensors", packed(STATE, form))
    made = unpacked(load_arrays(tmp_path / "sent.safetensors"), STATE)
    assert list(made) == list(STATE)
    for name, value in STATE.items():
        assert (made[name].dtype, made[name].shape) == (value.dtype, value.shape)
    assert made["norm.count"] == 12
    worst = max(float((made[name] - value).abs().max()) for name, value in STATE.items() if value.ndim)
    assert worst <= {"fp32": 0.0, "fp16": 2e-3, "int8": 0.02}[form]
    assert (worst == 0.0) == (form == "fp32")


@pytest.mark.parametrize("form", FORMS)
def test_bytes_are_those_of_the_file_and_accuracy_that_of_what_was_received(form: Form, tmp_path: Path) -> None:
    sent, test = network(), on_test()
    before = tiny.state(sent)
    found = ship(sent, form, test, tiny.device())
    save_arrays(tmp_path / "network.safetensors", packed(before, form))
    assert found["bytes"] == (tmp_path / "network.safetensors").stat().st_size
    other = network()
    weights: dict[str, Tensor] = unpacked(load_arrays(tmp_path / "network.safetensors"), before)
    other.load_state_dict(weights)
    logits = predict(other, test.images, device=tiny.device().torch)
    assert found["top1"] == accuracy(logits, test.labels)
    assert all(torch.equal(value, sent.state_dict()[name]) for name, value in before.items())


def test_halves_take_half_the_bytes_and_eighths_a_quarter() -> None:
    sizes = {form: ship(network(160), form, on_test(), tiny.device())["bytes"] for form in FORMS}
    assert sizes["fp16"] / sizes["fp32"] == pytest.approx(0.5, abs=0.02)
    assert sizes["int8"] / sizes["fp32"] == pytest.approx(0.25, abs=0.05)
