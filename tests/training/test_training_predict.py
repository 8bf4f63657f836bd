"""What a trained network says of pictures, and that asking leaves it as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from datastill.training.predict import accuracy, predict
from datastill.training.supply import Data
from datastill.training.views import to_unit

CPU = torch.device("cpu")


def test_answers_are_those_of_one_picture_at_a_time(make_network: Callable[..., Any], data: Data) -> None:
    network = make_network().eval()
    for batch in (1, 7, 500):
        logits = predict(network, data.images, device=CPU, batch=batch)
        features = predict(network, data.images, device=CPU, batch=batch, features=True)
        assert (logits.dtype, features.dtype) == (torch.float32, torch.float32)
        assert (logits.shape, features.shape) == ((20, 3), (20, network.features(torch.zeros(1, 3, 8, 8)).shape[1]))
        for i in range(20):
            x = data.images[i : i + 1].float() / 255
            torch.testing.assert_close(logits[i], network(x)[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(features[i], network.features(x)[0], rtol=1e-4, atol=1e-5)


def test_bytes_and_the_same_numbers_as_floats_give_the_same_answers(
    make_network: Callable[..., Any], data: Data
) -> None:
    network, floats = make_network(), to_unit(data.images)
    before = floats.clone()
    assert torch.equal(predict(network, data.images, device=CPU), predict(network, floats, device=CPU))
    assert torch.equal(floats, before)


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_statistics_are_left_as_they_were(
    training: bool, make_network: Callable[..., Any], data: Data
) -> None:
    network = make_network("efficientnet_b0").train(training)
    network.body.pool.train(not training)  # a part in another mode than the whole
    modes = [module.training for module in network.modules()]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    one = predict(network, data.images, device=CPU)
    assert [module.training for module in network.modules()] == modes
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert not one.requires_grad
    assert torch.equal(predict(network, data.images, device=CPU), one), "dropout must be off"


def test_a_picture_is_answered_alike_in_any_company(make_network: Callable[..., Any], data: Data) -> None:
    network = make_network().train()
    whole = predict(network, data.images, device=CPU)
    torch.testing.assert_close(predict(network, data.images[3:5], device=CPU), whole[3:5], rtol=1e-4, atol=1e-5)


def test_accuracy_is_the_share_of_right_answers_in_percent() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
    labels: Tensor = torch.tensor([0, 1, 1])
    assert accuracy(logits, labels) == pytest.approx(200 / 3)
    assert accuracy(logits, torch.tensor([0, 1, 0])) == 100.0
    assert accuracy(logits, torch.tensor([1, 0, 1])) == 0.0
