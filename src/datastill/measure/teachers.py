"""The networks behind the labels, on the images that students are scored on: each one's accuracy, and all together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from datastill.artifact import DistilledDataset
from datastill.fields import Real, resolve
from datastill.measure.student import Testing
from datastill.recipe import Recipe
from datastill.runtime.device import Device
from datastill.runtime.progress import Reporter
from datastill.sources import Dataset
from datastill.training.bank import Bank, Training
from datastill.training.predict import accuracy, predict

TOGETHER = "mean of logits"


class Teachers:
    """Networks of any number of recipes on one data set; each answers once."""

    def __init__(self, dataset: Dataset, testing: Testing, device: Device, reporter: Reporter) -> None:
        self.dataset, self.testing, self.device = dataset, testing, device
        self._bank = Bank(device, reporter)
        self._logits: dict[str, Tensor] = {}

    def facts(self, recipe: Recipe) -> dict[str, Any]:
        """Return each network's accuracy, bytes, steps, seconds and losses, and the accuracy of their mean logits.

        Nothing where neither labels nor the match ask them: none is trained to be measured alone.
        """
        found: dict[str, Any] = {}
        if not self._asked(recipe):
            return found
        for name, made in recipe.networks.items():
            record = self._bank.record(self._trained(recipe, name))
            found[name] = {
                "arch": made.arch,
                "top1": accuracy(self._answers(recipe, name), self.testing.labels),
                "bytes": record["bytes"],
                "steps": record["steps"],
                "seconds": record["seconds"],
                "losses": record["losses"],
            }
        together = self.together(recipe)
        if together is not None:
            found[TOGETHER] = {"arch": "ensemble", "top1": together, "bytes": sum(f["bytes"] for f in found.values())}
        return found

    def _asked(self, recipe: Recipe) -> bool:
        fields = resolve(recipe, self.dataset.info, run=False)
        matched = fields.match.total_rounds > 0 and fields.match.trained(tuple(recipe.networks))
        return fields.label.column != "H" or bool(matched)

    def together(self, recipe: Recipe) -> float | None:
        """Return the accuracy of the mean of the recipe's networks' logits in percent ("ship the teachers")."""
        if not recipe.networks:
            return None
        answers = torch.stack([self._answers(recipe, name) for name in recipe.networks])
        return accuracy(answers.sum(dim=0), self.testing.labels)

    def _training(self, recipe: Recipe, name: str) -> tuple[Training, Real]:
        real = Real(self.dataset, recipe.validation, recipe.seed)
        return Training(name, recipe.networks[name], self.dataset.info, real.key, self.device.precision), real

    def _trained(self, recipe: Recipe, name: str) -> Training:
        training, real = self._training(recipe, name)
        self._bank.get(training, real.data)
        return training

    def _answers(self, recipe: Recipe, name: str) -> Tensor:
        training, real = self._training(recipe, name)
        if training.key not in self._logits:
            network = self._bank.get(training, real.data)
            self._logits[training.key] = predict(network, self.testing.images, device=self.device.torch)
        return self._logits[training.key]


def measure_teachers(
    distilled: DistilledDataset, dataset: Dataset, testing: Testing, device: Device, reporter: Reporter
) -> dict[str, Any]:
    """Return `Teachers.facts` of one distilled set's recipe."""
    return Teachers(dataset, testing, device, reporter).facts(distilled.recipe)
