"""Names, settings, seeds and spaces: what the registry takes, refuses and repeats."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from datastill.errors import DatastillError
from datastill.networks import Body, Space, create_network, list_networks, network, registry


def build(name="convnet", classes=10, shape=(3, 8, 8), space=None, **changes):
    space = Space([0.5] * shape[0], [0.25] * shape[0]) if space is None else space
    return create_network(name, classes=classes, shape=shape, space=space, **changes)


def test_names_are_listed_by_wildcard() -> None:
    assert list_networks("resnet*") == ["resnet10", "resnet101", "resnet18", "resnet34", "resnet50"]
    assert list_networks("nothing*") == []
    assert len(list_networks()) == len(set(list_networks())) >= 11


def test_a_decorated_builder_becomes_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_builders", dict(registry._builders))

    class Line(Body):
        def __init__(self, inputs: int, classes: int) -> None:
            super().__init__()
            self.head = nn.Linear(inputs, classes)

        def features(self, z):
            return z.flatten(1)

    @network("line")
    def line(classes, shape, *, scale=1):
        return Line(shape[0] * shape[1] * shape[2], classes)

    made = build("line", scale=2, seed=0)
    assert made.settings == {"scale": 2}
    assert (made.name, made.classes, made.shape) == ("line", 10, (3, 8, 8))
    assert made(torch.zeros(2, 3, 8, 8)).shape == (2, 10)


def test_an_unknown_name_is_answered_with_the_nearest_ones() -> None:
    with pytest.raises(DatastillError, match=r"no network 'resnet19'; did you mean 'resnet18'"):
        build("resnet19")


def test_an_unknown_setting_is_answered_with_the_known_ones() -> None:
    with pytest.raises(DatastillError, match=r"network 'convnet' has no setting 'widht'; did you mean 'width'"):
        build(widht=3)
    with pytest.raises(DatastillError, match=r"'resnet18' has no setting 'zzz'; there are: width\."):
        build("resnet18", zzz=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (3, 7, 32)}, "sides of 8 pixels or more"),
        ({"classes": 0}, "at least one class"),
        ({"space": Space([0.5], [0.5])}, "channels, but its space has 1"),
        ({"norm": "bach"}, "no norm 'bach'; did you mean 'batch'"),
        ({"depth": 4}, "depth from 1 to 3"),
        ({"depth": 0}, "depth from 1 to 3"),
        ({"name": "vit_tiny", "heads": 5}, "heads that divide the width"),
        ({"name": "vit_tiny", "patch": 9}, "a patch that fits"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(changes, message) -> None:
    with pytest.raises(DatastillError, match=message):
        build(seed=0, **changes)


@pytest.mark.parametrize("name", ["convnet", "resnet10", "vit_tiny"])
def test_a_seed_decides_the_weights_and_leaves_the_global_generator_alone(name) -> None:
    before = torch.get_rng_state()
    first, again, other = (build(name, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.global_random  # without a seed the global generator is what is asked for
def test_without_a_seed_two_networks_differ() -> None:
    first, second = build().state_dict(), build().state_dict()
    assert any(not torch.equal(first[key], second[key]) for key in first)


def test_a_network_eats_pixels_and_stores_its_space() -> None:
    space = Space([0.1, 0.2, 0.3], [0.5, 0.4, 0.3])
    made = build(space=space, seed=0).eval()
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    by_hand = (x - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) / torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)
    assert torch.equal(made(x), made.body(by_hand))
    torch.testing.assert_close(space.back(space.into(x)), x)
    state = made.state_dict()
    assert state["space.mean"].shape == state["space.std"].shape == (1, 3, 1, 1)
    other = build(space=Space([0.0] * 3, [1.0] * 3), seed=1).eval()
    other.load_state_dict(state)
    assert torch.equal(other(x), made(x))


def test_the_arrays_of_a_space_are_its_statistics() -> None:
    arrays = Space([0.1, 0.2], [0.5, 0.4]).arrays()
    assert {name: (t.dtype, t.shape) for name, t in arrays.items()} == {
        "mean": (torch.float32, (2,)),
        "std": (torch.float32, (2,)),
    }
    assert arrays["std"].tolist() == pytest.approx([0.5, 0.4])


@pytest.mark.parametrize(("mean", "std"), [([0.5], [0.1, 0.2]), ([], []), ([0.5], [0.0]), ([0.5, 0.5], [0.1, -1.0])])
def test_a_space_refuses_statistics_that_do_not_fit(mean, std) -> None:
    with pytest.raises(DatastillError, match="give"):
        Space(mean, std)
