"""DataDAM and ATOM: where, and with which channels, untrained networks look, alike for learned and for real images.

DataDAM is arXiv 2310.00093 (ICCV 2023), ATOM arXiv 2405.01373 (CVPR 2024 workshop on dataset distillation), whose code
was never released: what is not told of it is taken from DataDAM.
"""

from __future__ import annotations

from typing import Any

from datastill.methods.condensation import START, augmented, controls, papers, store, student
from datastill.methods.profiles import profile
from datastill.recipe import Control, DatasetInfo, NetworkRecipe, Recipe, choice, preset

EPOCHS, STUDENT_BATCH = 1800, 64  # of students
SCALE = 100.0  # of all terms, in the code alone; with it, a rate of 1 is right
BATCH = 64  # real images of a class in a step
# The settings of the table of the repository, and those of the code as it is called; both loops run one round more. For
# small sets our own.
TABLE: dict[str, Any] = {"rounds": 8001, "power": 4.0}
RELEASED: dict[str, Any] = {"rounds": 20_001, "power": 1.0}
# Attention of few places pulls harder at each pixel: at a rate of 1 few small pictures grow in contrast without end.
SMALL_ROUNDS, SMALL_LR, FEW_LR, FEW = 500, 0.1, 0.02, 10
SMALL_WIDTH = 64
SMALL_SIDE = 12  # below it, a ConvNet has one block by itself, hence no layer before the last
LARGE_SIDE = 64
LARGE = 50  # images per class above which the rate is ten times as high
EMBED: dict[str, Any] = {"tap": "embed"}


def attention(sums: str, power: float) -> dict[str, Any]:
    """Return the term of attention over "channels" (where a network looks) or "positions" (with which channels)."""
    return {"tap": "relu", "reduce": sums, "power": power, "normalise": True, "weight": SCALE}


def embedded(info: DatasetInfo) -> dict[str, Any]:
    """Return DM's term under lambda."""
    return EMBED | {"weight": SCALE * (0.02 if info.shape[1] >= LARGE_SIDE else 0.01)}


def network(info: DatasetInfo) -> NetworkRecipe:
    """Return the network that images are matched in: a ConvNet with BatchNorm, of two blocks or more."""
    width = SMALL_WIDTH if profile(info) == "small" else 128
    depth = {"depth": 2} if info.shape[1] < SMALL_SIDE else {}
    return NetworkRecipe(arch="convnet", settings={"width": width} | depth)


def _recipe(name: str, info: DatasetInfo, ipc: int, faithful: bool, sums: list[str], reading: dict[str, Any]) -> Recipe:
    settings = {"rounds": reading["rounds"], "lr": 10.0 if ipc > LARGE else 1.0}
    if profile(info) == "small":
        settings = {"rounds": SMALL_ROUNDS, "lr": FEW_LR if ipc < FEW else SMALL_LR}
    terms = [attention(over, reading["power"]) for over in sums] + [embedded(info)]
    return Recipe(
        method=name,
        ipc=ipc,
        faithful=faithful,
        select=choice("random"),
        store=store("real", faithful),
        match=choice(
            "features", **settings, momentum=0.5, batch=BATCH, network=network(info), terms=terms,
            **augmented(info, "one"),
        ),
        label=choice("hard"),
        stages=choice("once"),
        student=student(info, ipc, EPOCHS, "one", batch=min(STUDENT_BATCH, ipc * info.classes)),
    )  # fmt: skip


NO_ATTENTION = Control(
    "no_attention", "the same without attention, which is DM in its network", {"match.terms": [EMBED]}
)
POSTER = "Table 1 of the poster: under ZCA, and it may be from chosen images"
TABLE_1 = {
    "cifar10": {1: (32.0, 1.2), 10: (54.2, 0.8), 50: (67.0, 0.4)},
    "cifar100": {1: (14.5, 0.5), 10: (34.8, 0.5), 50: (49.4, 0.3)},
    "tiny-imagenet": {1: (8.3, 0.4), 10: (18.7, 0.3), 50: (28.7, 0.3)},
}


@preset("datadam", title="DataDAM, where random networks look", cite="arXiv:2310.00093",
        controls=controls("datadam", START, NO_ATTENTION), paper=papers(POSTER, TABLE_1, "convnet"))  # fmt: skip
def datadam(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """DM, and maps of where the earlier layers look, by the table of the authors' repository."""
    return _recipe("datadam", info, ipc, faithful, ["channels"], TABLE)


@preset("datadam-released", title="DataDAM as its code is called", cite="arXiv:2310.00093",
        controls=controls("datadam-released", START, NO_ATTENTION),
        paper=papers(POSTER, TABLE_1, "convnet"))  # fmt: skip
def datadam_released(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """DataDAM with the numbers of the released script: plain sums of activations, and more rounds."""
    return _recipe("datadam-released", info, ipc, faithful, ["channels"], RELEASED)


@preset("atom", title="ATOM, where random networks look and with which channels", cite="arXiv:2405.01373",
        controls=controls("atom", START, NO_ATTENTION))  # fmt: skip
def atom(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """DataDAM, and which channels the earlier layers look with."""
    return _recipe("atom", info, ipc, faithful, ["channels", "positions"], TABLE)


@preset("atom-spatial", title="ATOM without channels, which is DataDAM", cite="arXiv:2405.01373",
        controls=controls("atom-spatial", START, NO_ATTENTION))  # fmt: skip
def atom_spatial(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """ATOM with its spatial half alone."""
    return _recipe("atom-spatial", info, ipc, faithful, ["channels"], TABLE)


@preset("atom-channel", title="ATOM with channels alone", cite="arXiv:2405.01373",
        controls=controls("atom-channel", START, NO_ATTENTION))  # fmt: skip
def atom_channel(info: DatasetInfo, ipc: int, faithful: bool) -> Recipe:
    """ATOM with its channel half alone."""
    return _recipe("atom-channel", info, ipc, faithful, ["positions"], TABLE)
