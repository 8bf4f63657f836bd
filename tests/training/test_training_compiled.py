"""Compiled training: the same numbers as the plain loop, under the same parameter names."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from datastill.runtime.device import open_device
from datastill.training.loop import Learner, train
from datastill.training.supply import Data, supply


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.global_random  # the compiler draws numbers of its own
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_network_learns_what_the_plain_one_learns(make_learner: Callable[..., Learner], data: Data) -> None:
    learners = [make_learner(steps=4), make_learner(steps=4, device=open_device("cpu", "float32", compile=True))]
    for learner in learners:
        for _ in train(learner, supply(data, learner.work, learner.recipe, 0)):
            pass
    plain, compiled = (learner.network.state_dict() for learner in learners)
    assert plain.keys() == compiled.keys()
    torch.testing.assert_close(learners[1].losses, learners[0].losses, rtol=1e-4, atol=1e-5)
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-4)
