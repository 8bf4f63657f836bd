"""The real training rows that distillation may look at: nothing here has ever seen the test split."""

from __future__ import annotations

import torch
from torch import Tensor

from datastill.errors import DatastillError
from datastill.runtime.files import digest_of
from datastill.runtime.seeds import rng
from datastill.sources import Dataset, Images
from datastill.training.losses import one_hot
from datastill.training.supply import Data, scale_of
from datastill.values import Pictures


class Real:
    """The real training rows that distillation may look at: the train split less the validation rows. No test split.

    Args:
        dataset: the whole data set.
        validation: how many training rows to hold out, spread evenly over the classes.
        seed: which ones.
    """

    def __init__(self, dataset: Dataset, validation: int = 0, seed: int = 0) -> None:
        self._train: Images = dataset.train
        self.info, self.fingerprint, self.classes = dataset.info, dataset.fingerprint, dataset.classes
        labels = dataset.train.labels
        held: list[Tensor] = []
        self._by_place = labels.argsort(stable=True)
        self._places = self._by_place.argsort()
        for k in range(self.info.classes):
            rows = (labels == k).nonzero().flatten()
            share = validation // self.info.classes + (k < validation % self.info.classes)
            if share >= len(rows) and share > 0:
                raise DatastillError(
                    f"validation={validation} would take all {len(rows)} training images of class "
                    f"'{dataset.classes[k]}'; hold out fewer."
                )
            held.append(rows[torch.from_numpy(rng(seed, "validation", k).permutation(len(rows))[:share])])
        self.held_out = torch.cat(held).sort().values
        self.rows = torch.isin(torch.arange(len(labels)), self.held_out, invert=True).nonzero().flatten()
        self.key = self.key_of(self.rows)

    def of_class(self, k: int) -> Tensor:
        """Return the allowed train rows of class k, long[n], ascending."""
        return self.rows[self._train.labels[self.rows] == k]

    def pictures(self, rows: Tensor) -> Pictures:
        """Return pictures by train row, which must be allowed rows."""
        ids = tuple(self._train.ids[int(r)] for r in rows)
        return Pictures(self._train.batch(rows), self._train.labels[rows], ids, places=self._places[rows])

    def rows_of(self, pictures: Pictures) -> Tensor:
        """Return the train row of each picture, long[P], -1 for one that is none: the way back from `pictures`.

        By places where there are any, else by ids: a set that was saved keeps one of them.
        """
        if pictures.places is not None:
            last = len(self._by_place) - 1
            known = (pictures.places >= 0) & (pictures.places <= last)
            rows = torch.where(known, self._by_place[pictures.places.clamp(0, last)], -1)
        else:
            row_of = {name: row for row, name in enumerate(self._train.ids)}
            ids = pictures.ids or ("",) * len(pictures.cls)
            rows = torch.tensor([row_of.get(name, -1) for name in ids], dtype=torch.long)
        return torch.where(self._train.labels[rows.clamp(min=0)] == pictures.cls, rows, -1)

    def key_of(self, rows: Tensor) -> str:
        """Return the hash of a part of the train rows, whatever their order; `key` is that of all allowed rows."""
        left_out = torch.isin(torch.arange(len(self._train.labels)), rows, invert=True)
        return digest_of([self.fingerprint, left_out.nonzero().flatten().tolist()])

    def data(self, rows: Tensor | None = None) -> Data:
        """Return all allowed rows, or these of them, ascending, with hard labels, for training networks."""
        rows = self.rows if rows is None else rows.sort().values
        labels = self._train.labels[rows]
        targets = one_hot(labels, self.info.classes)
        return Data(self._train.batch(rows), labels, targets, "classes", scale_of(self.info))
