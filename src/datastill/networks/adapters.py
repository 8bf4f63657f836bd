"""Networks of timm and torchvision, under `timm:NAME` and `torchvision:NAME`; both are imported when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from datastill.errors import DatastillError, unknown
from datastill.networks.body import Body, Shape


class TimmBody(Body):
    """A timm model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def features(self, z: Tensor) -> Tensor:
        """Return pooled features before the classifier, float[B, D]."""
        features: Tensor = self.model.forward_head(self.model.forward_features(z), pre_logits=True)
        return features.flatten(1)

    def forward(self, z: Tensor) -> Tensor:
        """Return logits, float[B, K]."""
        logits: Tensor = self.model(z)
        return logits


class TorchvisionBody(Body):
    """A torchvision classification model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def features(self, z: Tensor) -> Tensor:
        """Return the input of the last linear layer (a 1x1 convolution in SqueezeNet), float[B, D]."""
        seen: list[Tensor] = []
        last = _last(self.model, nn.Linear, nn.Conv2d)[1]
        handle = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self.model(z)
        finally:
            handle.remove()
        return seen[0].flatten(2).mean(2) if seen[0].dim() == 4 else seen[0].flatten(1)

    def forward(self, z: Tensor) -> Tensor:
        """Return logits, float[B, K]; auxiliary logits of a model in training are dropped."""
        logits = self.model(z)
        return logits if isinstance(logits, Tensor) else logits[0]


def models(library: str) -> list[str]:
    """Return the names of a library's classification models.

    Raises:
        DatastillError: unknown library, or it is not installed.
    """
    if library == "timm":
        return list(_load("timm").list_models())
    if library == "torchvision":
        return list(_load("torchvision.models").list_models(module=_load("torchvision.models")))
    raise unknown("library of networks", library, ("timm", "torchvision"))


def builder(library: str, model: str) -> Callable[..., Body]:
    """Return the builder of one model.

    Raises:
        DatastillError: unknown library or model, or the library is not installed.
    """
    known = models(library)
    if model not in known:
        raise unknown(f"{library} model", model, known)
    return partial(_timm if library == "timm" else _torchvision, model)


def _timm(model: str, classes: int, shape: Shape, *, pretrained: bool = False) -> Body:
    timm = _load("timm")
    create = partial(timm.create_model, model, pretrained=pretrained, num_classes=classes, in_chans=shape[0])
    try:
        try:
            built = TimmBody(create(img_size=shape[1:]))
        except TypeError as error:
            # Only models with learned positions or windows know their image size; the others refuse the keyword.
            if "img_size" not in str(error):
                raise
            built = TimmBody(create())
        return _tried(built, shape)
    except Exception as error:
        raise _failed(f"timm:{model}", shape, pretrained, error) from error


def _torchvision(model: str, classes: int, shape: Shape, *, pretrained: bool = False) -> Body:
    library = _load("torchvision.models")
    try:
        if not pretrained:
            built = library.get_model(model, weights=None, num_classes=classes)
        else:
            weights = library.get_model_weights(model)
            # The first published weights are the ones whose accuracies papers of the field quote.
            chosen = weights.__members__.get("IMAGENET1K_V1") or weights.DEFAULT
            built = library.get_model(model, weights=None)
            built.load_state_dict(chosen.get_state_dict(progress=False, check_hash=True, weights_only=True))
            _replace_head(built, classes)
        _replace_stem(built, shape[0])
        return _tried(TorchvisionBody(built), shape)
    except Exception as error:
        raise _failed(f"torchvision:{model}", shape, pretrained, error) from error


def _tried(body: Body, shape: Shape) -> Body:
    """Return the body after one image went through it: many models build for sides that they cannot run on."""
    mode = body.training
    with torch.no_grad():
        body.eval()(torch.zeros(1, *shape))
    return body.train(mode)


def _replace_head(model: nn.Module, classes: int) -> None:
    name, head = _last(model, nn.Linear, nn.Conv2d)
    if isinstance(head, nn.Linear):
        model.set_submodule(name, nn.Linear(head.in_features, classes))
    elif isinstance(head, nn.Conv2d):
        model.set_submodule(name, nn.Conv2d(head.in_channels, classes, 1))


def _replace_stem(model: nn.Module, channels: int) -> None:
    """Make the first convolution take another number of channels, with the old filters' sum shared among them."""
    stem = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    if stem.in_channels == channels:
        return
    old = stem.weight.detach()
    stem.in_channels = channels
    stem.weight = nn.Parameter((old.sum(1, keepdim=True) / channels).repeat(1, channels, 1, 1))


def _last(model: nn.Module, *kinds: type[nn.Module]) -> tuple[str, nn.Module]:
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]
    return found[-1]


def _load(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise DatastillError(
            f'networks of {library} were asked for, but it is not installed; run pip install "datastill[vision]".'
        ) from error


def _failed(name: str, shape: Shape, pretrained: bool, error: Exception) -> DatastillError:
    reason = " ".join(str(error).split()) or type(error).__name__
    what, remedy = f"it cannot be built for images of shape {tuple(shape)}", "take another network"
    if pretrained:
        what, remedy = "its pretrained weights could not be had", "go online or build it with pretrained=False"
    return DatastillError(f"'{name}' was asked for, but {what} ({reason}); {remedy}.")
