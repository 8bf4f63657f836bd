"""timm and torchvision behind their prefixes: built, tapped for features, refused in a sentence."""

from __future__ import annotations

import sys
import urllib.error
from typing import Any

import pytest
import torch

from datastill.errors import DatastillError
from datastill.networks import Space, create_network, list_networks
from datastill.networks.taps import tap

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def build(name: str, shape: tuple[int, int, int] = (3, 32, 32), **settings: Any) -> Any:
    space = Space([0.5] * shape[0], [0.25] * shape[0])
    return create_network(name, classes=5, shape=shape, space=space, seed=0, **settings)


def images(shape: tuple[int, int, int]) -> torch.Tensor:
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "width"),
    [("timm:test_resnet", 96), ("timm:test_vit", 64), ("torchvision:shufflenet_v2_x0_5", 1024)],
)
def test_a_borrowed_network_gives_logits_and_features(name, width, channels) -> None:
    pytest.importorskip(name.partition(":")[0])
    network = build(name, (channels, 32, 32)).eval()
    x = images((channels, 32, 32))
    with torch.no_grad():
        logits, features = network(x), network.features(x)
    assert logits.shape == (2, 5)
    assert features.shape == (2, width)
    assert not any(hooks for module in network.modules() for hooks in [module._forward_pre_hooks])


def test_torchvision_features_are_what_the_last_linear_layer_sees() -> None:
    pytest.importorskip("torchvision")
    network = build("torchvision:shufflenet_v2_x0_5").eval()
    x = images((3, 32, 32))
    with torch.no_grad():
        torch.testing.assert_close(network.body.model.fc(network.features(x)), network(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # googlenet announces another initialisation
@pytest.mark.parametrize("name", ["squeezenet1_1", "vgg11_bn", "mobilenet_v2", "vit_b_32", "googlenet", "densenet121"])
def test_other_torchvision_families_run(name) -> None:
    pytest.importorskip("torchvision")
    network = build(f"torchvision:{name}", (3, 224, 224)).eval()
    with torch.no_grad():
        assert network(images((3, 224, 224))).shape == (2, 5)
        assert network.features(images((3, 224, 224))).dim() == 2


def test_the_models_of_a_library_are_listed_under_its_prefix() -> None:
    pytest.importorskip("timm")
    assert "timm:test_vit" in list_networks("timm:test_*")
    assert "torchvision:resnet18" in list_networks("torchvision:resnet*")


def test_batch_norms_with_an_activation_of_their_own_are_tapped() -> None:
    pytest.importorskip("timm")
    network, x = build("timm:test_efficientnet").eval(), images((3, 32, 32))
    logits, statistics = tap(network, x)(x)
    torch.testing.assert_close(logits, network(x), rtol=1e-4, atol=1e-5)
    assert len(statistics) > 10


def test_unknown_models_and_libraries_are_answered_with_near_names() -> None:
    pytest.importorskip("timm")
    with pytest.raises(DatastillError, match=r"no timm model 'resnet18x'; did you mean '.*resnet18"):
        build("timm:resnet18x")
    with pytest.raises(DatastillError, match=r"no torchvision model 'resnet19'; did you mean 'resnet18'"):
        build("torchvision:resnet19")
    with pytest.raises(DatastillError, match=r"no library of networks 'tim'; did you mean 'timm'"):
        build("tim:resnet18")
    with pytest.raises(DatastillError, match=r"no setting 'pretraind'; did you mean 'pretrained'"):
        build("timm:resnet18", pretraind=True)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_missing_extra_is_answered_with_the_install_line(library, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(DatastillError, match=r'pip install "datastill\[vision\]"'):
        build(f"{library}:resnet18")


def test_a_failing_download_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")

    def offline(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route\nto host")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(
        DatastillError, match=r"pretrained weights could not be had \(.*no route to host.*\); go online"
    ):
        build("torchvision:shufflenet_v2_x0_5", pretrained=True)


def test_pretrained_weights_keep_the_body_and_get_a_new_head(monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng():
        published = torchvision.models.shufflenet_v2_x0_5(weights=None).state_dict()
    asked = {}

    def download(url: str, **options: object) -> dict[str, torch.Tensor]:
        asked.update(options)
        return published

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    network = build("torchvision:shufflenet_v2_x0_5", (1, 32, 32), pretrained=True)
    state = network.body.model.state_dict()
    assert asked["weights_only"] is True
    assert torch.equal(state["conv5.0.weight"], published["conv5.0.weight"])
    torch.testing.assert_close(state["conv1.0.weight"], published["conv1.0.weight"].sum(1, keepdim=True))
    assert state["fc.weight"].shape == (5, 1024)


def test_a_model_that_cannot_take_the_shape_is_refused() -> None:
    pytest.importorskip("timm")
    with pytest.raises(DatastillError, match=r"'timm:.*cannot be built for images of shape"):
        build("timm:vit_tiny_patch16_224", (3, 8, 8))
