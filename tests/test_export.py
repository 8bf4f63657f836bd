"""Exports for other programs: what DD-Ranking's evaluators are handed, and the sets that they cannot take."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from datastill import DistilledDataset
from datastill.errors import DatastillError
from datastill.export import export
from datastill.fields import COLUMNS, Items
from datastill.recipe import NetworkRecipe, choice
from reference import tiny

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # of both CIFAR sets in DD-Ranking, not the set's own
PLAIN = {"match": choice("none"), "label": choice("hard"), "store": choice("pixels"), "networks": {}}


def small(name: str = "cifar10", classes: int = 10, side: int = 32, **changes: Any) -> DistilledDataset:
    data = replace(tiny.dataset(classes, shape=(3, side, side)), name=name)
    return tiny.distilled(None, data, **(PLAIN | changes))


@pytest.fixture(scope="module")
def soft() -> DistilledDataset:
    """A set of floating pixels and stored soft labels whose items lie in any order."""
    network = NetworkRecipe(arch="convnet", settings={"width": 4}, training=replace(tiny.TEACHING, steps=1))
    student = replace(tiny.STUDENT, temperature=4.0, kl_scale="temperature-squared")
    made = small(match=choice("statistics", rounds=1, lr=0.1, jitter=1), label=choice("static"),
                 store=choice("compensated", render="float"), networks={"one": network}, student=student)  # fmt: skip
    assert made.labels.values is not None
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(made)))
    items = Items.of(**{name: getattr(made.content.items, name)[order] for name in COLUMNS})
    labels = replace(made.labels, values=made.labels.values[order])
    return replace(made, content=replace(made.content, items=items), labels=labels)


class Evaluator:
    """Takes what the evaluators of ddranking 0.2.0 take, by the names of their arguments."""

    made: dict[str, Any]
    given: dict[str, Any]

    def __init__(
        self, dataset: str, ipc: int, im_size: tuple[int, int], optimizer: str, weight_decay: float, num_epochs: int,
        syn_batch_size: int, **of_soft_labels: Any,
    ) -> None:  # fmt: skip
        Evaluator.made = {"dataset": dataset, "ipc": ipc, "im_size": im_size, "optimizer": optimizer,
                          "weight_decay": weight_decay, "num_epochs": num_epochs, "batch": syn_batch_size,
                          **of_soft_labels}  # fmt: skip

    def compute_metrics(self, image_tensor: torch.Tensor, syn_lr: float, **labels: torch.Tensor) -> None:
        Evaluator.given = {"images": image_tensor, "lr": syn_lr, **labels}


def follow_readme(folder: Path, evaluator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the lines that the export shows, with stand-ins for the evaluators."""
    package, metrics = ModuleType("ddranking"), ModuleType("ddranking.metrics")
    setattr(metrics, evaluator, Evaluator)
    monkeypatch.setitem(sys.modules, "ddranking", package)
    monkeypatch.setitem(sys.modules, "ddranking.metrics", metrics)
    monkeypatch.chdir(folder)
    (block,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})


def test_soft_labelled_tensors_are_the_expanded_set_class_by_class(soft, tmp_path, monkeypatch):
    folder = export(soft, "ddranking", tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "tensors.safetensors"]
    tensors = load_file(folder / "tensors.safetensors")
    cls = soft.content.items.cls.tolist()
    order = sorted(range(len(cls)), key=lambda i: cls[i])  # stable
    assert cls != sorted(cls)
    assert tensors["hard_labels"].tolist() == sorted(cls)
    per_class = len(cls) // 10
    assert tensors["hard_labels"].tolist() == [k for k in range(10) for _ in range(per_class)]  # how evaluators label
    images = soft.expand().images
    assert images.is_floating_point()
    for channel in range(3):
        wanted = (images[order, channel].double().numpy() - MEAN[channel]) / STD[channel]
        np.testing.assert_allclose(tensors["images"][:, channel].numpy(), wanted, atol=2e-6)
    assert soft.labels.values is not None
    assert torch.equal(tensors["soft_labels"], soft.labels.values[order].float())  # logits, as their losses expect
    follow_readme(folder, "LabelRobustScoreSoft", monkeypatch)
    assert Evaluator.made == {
        "dataset": "CIFAR10", "ipc": per_class, "im_size": (32, 32), "optimizer": "adamw", "weight_decay": 0.01,
        "num_epochs": 2, "batch": 8, "soft_label_mode": "S", "soft_label_criterion": "kl",
        "loss_fn_kwargs": {"temperature": 4.0, "scale_loss": True},
    }  # fmt: skip
    assert Evaluator.given.keys() == {"images", "lr", "soft_labels"}
    assert Evaluator.given["lr"] == 0.01
    assert torch.equal(Evaluator.given["images"], tensors["images"])


def test_real_images_with_hard_labels_are_normalised_as_torchvision_does(tmp_path, monkeypatch):
    transforms = pytest.importorskip("torchvision.transforms")
    made = small()
    tensors = load_file(export(made, "ddranking", tmp_path) / "tensors.safetensors")
    assert tensors.keys() == {"images", "hard_labels"}
    whole = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    for i, k in enumerate(torch.argsort(made.content.items.cls, stable=True).tolist()):
        picture = made.content.pictures.pixels[made.content.items.picture[k]].permute(1, 2, 0).numpy()
        assert torch.equal(tensors["images"][i], whole(picture))
    follow_readme(tmp_path, "LabelRobustScoreHard", monkeypatch)
    assert torch.equal(Evaluator.given["hard_labels"], tensors["hard_labels"])
    assert "0 is 'class 0', 9 is 'class 9'" in (tmp_path / "README.md").read_text()


def test_networks_in_the_loop_are_left_out_and_the_readme_says_so(tmp_path):
    made = small(label=choice("dynamic"), networks=tiny.NETWORKS)
    tensors = load_file(export(made, "ddranking", tmp_path) / "tensors.safetensors")
    assert tensors.keys() == {"images", "hard_labels"}
    assert "networks in the loop" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "digits"}, r"has no data set 'digits'.*cifar100"),
        ({"classes": 4}, "with 10 classes and 32x32 colour images, but this set has 4 classes"),
        ({"side": 8}, r"but this set has 10 classes and images of shape \(3, 8, 8\)"),
        ({"store": choice("pixels", total=13)}, "equally many items of each class, but this set has from 1 to 2"),
    ],
)
def test_a_set_that_ddranking_cannot_evaluate_is_refused_and_nothing_is_written(changes, said, tmp_path):
    with pytest.raises(DatastillError, match=said + ".*; export to imagefolder or parquet"):
        export(small(**changes), "ddranking", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_imagenette_is_taken_at_any_size(tmp_path):
    export(small("imagenette", side=8), "ddranking", tmp_path)
    assert 'dataset="ImageNette", ipc=4, im_size=(8, 8)' in (tmp_path / "README.md").read_text()


def test_an_unknown_form_or_a_full_folder_is_refused(soft, tmp_path):
    with pytest.raises(DatastillError, match="there is no export form 'ddrank'; did you mean 'ddranking'"):
        export(soft, "ddrank", tmp_path)
    (tmp_path / "mine").write_text("here first")
    with pytest.raises(DatastillError, match="is not empty"):
        export(soft, "ddranking", tmp_path)
