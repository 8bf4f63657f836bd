"""The arms of a comparison: a method's own set, and its controls as recipe patches, each saved and weighed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datastill.artifact import MANIFEST, DistilledDataset, tensor_sha256
from datastill.engine import distil, label_content, make_context
from datastill.fields import Context
from datastill.measure.filling import filled
from datastill.recipe import Choice, Control, Recipe, TrainRecipe, choice, compose, method
from datastill.runtime.device import Device
from datastill.runtime.files import digest_of, read_json, write_json
from datastill.runtime.progress import Reporter
from datastill.settings import chosen, plain
from datastill.sources import Dataset

HARD = {"label": choice("hard")}


@dataclass(frozen=True)
class Arm:
    """One set that students are trained on; `scale` multiplies the optimiser steps of the comparison.

    role: "method" (as distilled), "hard" (its images with hard labels), "whole" (the real training set), "plain"
    (students without augmentation), or "control".
    student: how its students are trained; None for the set's own recipe.
    """

    name: str
    says: str
    distilled: DistilledDataset
    scale: float = 1.0
    role: str = "control"
    student: TrainRecipe | None = None

    @property
    def column(self) -> str:
        """H, S or D."""
        return self.distilled.fields.label.column

    @property
    def title(self) -> str:
        """The title of its method; of the method's own set, what labels it has where they are not the preset's."""
        recipe = self.distilled.recipe
        found = method(recipe.method)
        if self.role != "method":
            return found.title
        told = compose(recipe.method, self.distilled.info, ipc=recipe.ipc).label.kind
        return found.title + ("" if recipe.label.kind == told else f", but label={recipe.label.kind}")

    @property
    def training(self) -> TrainRecipe:
        """How its students are trained."""
        return self.student or self.distilled.recipe.student

    @property
    def random(self) -> bool:
        """Whether it is random real images at the nominal number per class: what others of its column stand beside."""
        recipe = self.distilled.recipe
        nominal = recipe.store.kind == "pixels" and not recipe.store.settings
        real = (recipe.select.kind, recipe.match.kind) == ("random", "none")
        real = real and not recipe.label.settings.get("shuffled", False)
        return nominal and real and self.scale == 1.0 and self.role not in ("whole", "plain")

    @property
    def key(self) -> str:
        """The hash of all that a student meets here: pixels, classes, labels, and how it is trained."""
        made, recipe = self.distilled, self.distilled.recipe
        values = made.labels.values
        told = [tensor_sha256(made.content.items.cls), made.labels.kind]
        told += [] if values is None else [tensor_sha256(values.float())]
        told += [] if made.labels.views is None else [plain(made.labels.views)]
        asked = ("teachers/", "labels/") if made.labels.records is not None else ("teachers/",)
        told += [file["sha256"] for name, file in made.facts["files"].items() if name.startswith(asked)]
        space = [list(made.info.mean), list(made.info.std)]
        return digest_of([made.facts["expanded"], told, recipe.label.plain(), chosen(self.training), space])


class ArmMaker:
    """Makes the arms of one distilled set, in folders of their own, so that each is weighed as a receiver stores it."""

    def __init__(
        self, distilled: DistilledDataset, dataset: Dataset, device: Device, reporter: Reporter, folder: Path
    ) -> None:
        self.distilled, self.dataset, self.device, self.reporter = distilled, dataset, device, reporter
        own = [chosen(distilled.recipe), list(distilled.recipe.networks), distilled.facts["expanded"]]
        self.folder = folder / digest_of(own)[:12]
        self.bytes = distilled.ledger()["total"]

    def own(self) -> Arm:
        """Return the method's own set."""
        arm = Arm(self.distilled.recipe.method, "", self.distilled, role="method")
        return replace(arm, says=f"{arm.title}, as distilled")

    def hard(self) -> Arm:
        """Return the method's images with hard labels: where the quality of images shows."""
        return self.relabelled(f"{self.distilled.recipe.method}_hard", "its images with hard labels", HARD, role="hard")

    def relabelled(self, name: str, says: str, patch: Mapping[str, Any], *, role: str = "control") -> Arm:
        """Return the method's images under a patch of the field `label`."""
        return Arm(name, says, self._relabelled(name, patch), role=role)

    def patched(self, name: str, says: str, patch: Mapping[str, Any]) -> Arm:
        """Return the arm of the method's recipe under a patch."""
        return Arm(name, says, self._distilled(name, self.distilled.recipe.patched(patch)))

    def make(self, control: Control) -> Arm | None:
        """Return a control's arm, or None where the control has no meaning for this set."""
        recipe, counts = self.distilled.recipe, self.distilled.facts["counts"]
        if control.needs == "steps":
            return self._other_steps(control)
        patch = dict(control.patch)
        if control.needs == "norms":
            if "compensator_norms" not in counts:
                return None
            patch["match"] = choice("noise", norms=counts["compensator_norms"])
        if control.needs == "sets":
            if "sets" not in counts:
                return None
            patch["store"] = _naturals(recipe.store, counts)
        if control.needs == "bytes":
            patch["store"] = self._filled(recipe.patched(patch), patch.get("store"), control.name)
        if {path.partition(".")[0] for path in patch} <= {"label", "student"}:
            role = "hard" if patch == HARD else "control"
            return self.relabelled(control.name, control.says, patch, role=role)
        return self.patched(control.name, control.says, patch)

    def _other_steps(self, control: Control) -> Arm:
        """Return the set under the other label kind's steps, or under other labels and as many pictures in all."""
        label = self.distilled.fields.label
        if control.patch:
            arm = self.relabelled(control.name, control.says, control.patch)
            return replace(arm, scale=label.pictures_per_item / arm.distilled.fields.label.pictures_per_item)
        makers = len(self.distilled.recipe.networks) + 1
        in_the_loop = self.distilled.labels.kind == "teachers"
        return Arm(control.name, control.says, self.distilled, float(makers) if in_the_loop else 1.0 / makers)

    def _distilled(self, name: str, recipe: Recipe) -> DistilledDataset:
        return distil(
            self.dataset, recipe, device=self.device, reporter=self.reporter, out=self.folder / name, resume=True,
            source=self.distilled.facts["source"],
        )  # fmt: skip

    def _context(self, recipe: Recipe) -> Context:
        return make_context(self.dataset, recipe, self.device, self.reporter)

    def _relabelled(self, name: str, patch: Mapping[str, Any]) -> DistilledDataset:
        out = self.folder / name
        if (out / MANIFEST).exists():
            return DistilledDataset.load(out)
        ctx = self._context(self.distilled.recipe.patched(patch))
        facts = {k: v for k, v in self.distilled.facts.items() if k not in ("files", "expanded")}
        made = label_content(ctx, self.distilled.content, facts)
        made.save(out)
        return made

    def _filled(self, recipe: Recipe, store: Choice | None, name: str) -> Choice:
        """Return the store with as many images as `_fill` found, now or in an earlier run."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            write_json(path, {"total": self._fill(recipe, store, name)})
        return _holding(store, int(read_json(path)["total"]))

    def _fill(self, recipe: Recipe, store: Choice | None, name: str) -> int:
        """Return the largest number of images whose saved set has at most the method's bytes, labels and all."""
        # Sets without loss are weighed without it, some bytes of the manifest: so measured rows come back.
        source = self.distilled.facts["source"] if store else None

        def weigh(count: int) -> int:
            tried = replace(recipe, store=_holding(store, count))
            with tempfile.TemporaryDirectory() as folder:
                made = distil(
                    self.dataset, tried, device=self.device, reporter=Reporter(), out=Path(folder) / name, source=source
                )
                return made.ledger()["total"]

        return filled(weigh, self.bytes, self.dataset.info.classes, len(self._context(recipe).real.rows))


def _naturals(store: Choice, counts: Mapping[str, Any]) -> Choice:
    """Return a store of a set's natural images alone; those beside the sets, and their codec, where it names such."""
    if "extra" not in counts:
        return choice("pixels", per_class=counts["sets"])
    # Spread over the classes, as many images as all of them are the very same.
    codec = {name: value for name, value in store.settings.items() if name == "codec"}
    return choice("pixels", total=counts["natural"], **codec)


def _holding(store: Choice | None, total: int) -> Choice:
    """Return a store with so many images and its own codec; lossless pixels where none is named."""
    named = choice("pixels") if store is None else store
    return replace(named, settings=dict(named.settings) | {"total": total})
