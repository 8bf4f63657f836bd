"""Codecs of soft labels: logits coded for the loss that will read them.

N items, K classes. A softmax at temperature T >= 10 hardly sees more of a row of logits than its squared distance from
another one, both centred; at T = 1 it sees the largest few. So uniform steps (int8 to int3) and the KLT serve high
temperatures, and the largest k serve low ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from datastill.errors import DatastillError
from datastill.settings import setting

Wide = npt.NDArray[np.float64]
Arrays = dict[str, npt.NDArray[Any]]

LARGEST = 65504.0  # of what float16 holds
TEMPERATURES = (1.0, 4.0, 30.0)
SAMPLE, TRIED = 4096, 16  # rows, and numbers of columns, on which the KLT's columns are chosen
HALVINGS = 40
BROTLI = 11  # level; within 3 % of the entropy of each column on its own, where zlib, bz2 and zstd are 10 to 20 % above


@dataclass(frozen=True, kw_only=True)
class LabelCodec:
    """How logits are stored.

    int8 to int3: whole steps between the least and the largest value of each row. topk: the k largest in 8 bits, and
    the mean of the others. klt: coefficients of a rotation that packs the variance of all rows into few columns, in
    one common step, entropy coded; rows come back without their mean, which no softmax sees.
    """

    kind: Literal["fp32", "fp16", "int8", "int6", "int5", "int4", "int3", "topk", "klt"] = setting("fp16")
    k: int = setting(10, low=1, help="of topk: how many values are kept")
    error: float = setting(
        0.01, low=1e-9, high=0.5, help="of klt: squared error, as a share of the squares of the centred logits"
    )

    @property
    def bits(self) -> int:
        """Bits of a value of int8 to int3; 0 for the others."""
        return int(self.kind[3:]) if self.kind.startswith("int") else 0


def problems(codec: LabelCodec, classes: int) -> list[str]:
    """Return one sentence for each reason why labels of so many classes cannot be stored so."""
    if codec.kind == "topk" and codec.k >= classes:
        return [f"label codec 'topk' was given k={codec.k} for {classes} classes; ask for fewer than there are."]
    if codec.kind == "klt" and not pa.Codec.is_available("brotli"):
        return ["label codec 'klt' needs a PyArrow that was built with Brotli; install its wheel, or choose kind=int4."]
    return []


def encode(values: Tensor, codec: LabelCodec) -> dict[str, Tensor]:
    """Return what is stored of logits float[N, K]; the same arrays every time.

    Raises: DatastillError for values that have no 16-bit form, and for a codec that does not fit K.
    """
    _refuse(problems(codec, values.shape[1]))
    if len(values) and not float(values.detach().abs().max()) <= LARGEST:
        raise DatastillError(f"logits beyond {LARGEST:.0f}, or that are no numbers, have no label codec.")
    if codec.kind in ("fp32", "fp16"):
        return {"logits": values.detach().cpu().to(torch.float32 if codec.kind == "fp32" else torch.float16)}
    wide = values.detach().cpu().double().numpy()
    coders = {"topk": _encode_topk, "klt": _encode_klt}
    return {
        k: torch.from_numpy(np.ascontiguousarray(v))
        for k, v in coders.get(codec.kind, _encode_int)(wide, codec).items()
    }


def decode(
    arrays: Mapping[str, Tensor], items: int, classes: int, codec: LabelCodec, what: str = "the labels"
) -> Tensor:
    """Return logits float32[N, K] from what `encode` stored.

    Args:
        arrays: by name.
        items: N.
        classes: K.
        codec: what they were encoded with.
        what: where they stand, for errors.

    Raises: DatastillError for arrays of other names, shapes, types or values than N, K and the codec imply.
    """
    _refuse(problems(codec, classes))
    found = {name: (_dtype(a), list(a.shape)) for name, a in sorted(arrays.items())}
    wanted = _layout(codec, items, classes)
    if found.keys() != wanted.keys() or not all(_fits(found[name], wanted[name]) for name in wanted):
        raise DatastillError(f"'{what}' holds {found}, but the manifest says {wanted} (-1: any).")
    if "logits" in arrays:
        values = arrays["logits"].float()
    else:
        decoders = {"topk": _decode_topk, "klt": _decode_klt}
        stored = {name: array.numpy() for name, array in arrays.items()}
        values = torch.from_numpy(decoders.get(codec.kind, _decode_int)(stored, items, classes, codec, what))
    if not bool(values.isfinite().all()):
        raise DatastillError(f"'{what}' holds logits that are no numbers.")
    return values


def label_error(values: Tensor, decoded: Tensor, temperatures: Sequence[float] = TEMPERATURES) -> dict[str, Any]:
    """Return what a codec costs: plain data.

    "kl": by temperature T, the mean KL(softmax(v / T) || softmax(d / T)) as a share of the mean KL to uniform labels.
    "top1": share of rows whose largest value is that of the same class as before.
    """
    v, d = values.detach().cpu().double(), decoded.detach().cpu().double()
    shares = {}
    for t in temperatures:
        log_p, log_q = (v / t).log_softmax(dim=1), (d / t).log_softmax(dim=1)
        p = log_p.exp()
        lost, whole = float((p * (log_p - log_q)).sum()), float((p * (log_p + np.log(v.shape[1]))).sum())
        shares[f"{t:g}"] = max(0.0, lost / whole) if whole > 0 else 0.0
    same = (v.argmax(dim=1) == d.argmax(dim=1)).double()
    return {"kl": shares, "top1": float(same.mean()) if len(same) else 1.0}


def _refuse(mistakes: list[str]) -> None:
    if mistakes:
        raise DatastillError(" ".join(mistakes))


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _layout(codec: LabelCodec, n: int, classes: int) -> dict[str, tuple[str, list[int]]]:
    """Return type and shape of every stored array; -1 for a length that is free."""
    if codec.kind in ("fp32", "fp16"):
        return {"logits": ("float32" if codec.kind == "fp32" else "float16", [n, classes])}
    if codec.kind == "topk":
        index = "uint8" if classes <= 256 else "int16" if classes <= 1 << 15 else "int32"
        return {"codes": ("uint8", [n, codec.k]), "index": (index, [n, codec.k]), "rest": ("float16", [n]),
                "step": ("float32", [1])}  # fmt: skip
    if codec.kind == "klt":
        return {"basis": ("float16", [classes, -1]), "codes": ("uint8", [-1]), "mean": ("float16", [classes]),
                "step": ("float32", [1]), "width": ("uint8", [1])}  # fmt: skip
    return {"codes": ("uint8", [n, -(-classes * codec.bits // 8)]), "scale": ("float16", [n, 2])}


def _fits(found: tuple[str, list[int]], wanted: tuple[str, list[int]]) -> bool:
    same = len(found[1]) == len(wanted[1]) and all(w in (-1, f) for f, w in zip(found[1], wanted[1], strict=True))
    return same and found[0] == wanted[0]


def _half(x: Wide, towards: float) -> npt.NDArray[np.float16]:
    """Round to float16 towards plus or minus infinity."""
    near = x.astype(np.float16)
    wrong = near.astype(np.float64) < x if towards > 0 else near.astype(np.float64) > x
    return np.where(wrong, np.nextafter(near, np.float16(towards)), near)


def _encode_int(values: Wide, codec: LabelCodec) -> Arrays:
    """Offset down and step up: so codes formed with both as stored are at most half a stored step off, for every value.

    Rounded to nearest, the last code may lie short of the largest value by up to 2^bits * 2^-11 steps.
    """
    most = (1 << codec.bits) - 1
    offset = _half(values.min(axis=1), -np.inf)
    step = _half((values.max(axis=1) - offset) / most, np.inf)
    width = np.where(step == 0, 1.0, step.astype(np.float64))
    codes = np.rint((values - offset[:, None]) / width[:, None]).astype(np.uint8)
    bits = (codes[:, :, None] >> np.arange(codec.bits, dtype=np.uint8)) & 1
    packed = np.packbits(bits.reshape(len(codes), codes.shape[1] * codec.bits), axis=1, bitorder="little")
    return {"codes": packed, "scale": np.stack([offset, step], axis=1)}


def _decode_int(arrays: Arrays, n: int, classes: int, codec: LabelCodec, what: str) -> npt.NDArray[np.float32]:
    bits = np.unpackbits(arrays["codes"], axis=1, count=classes * codec.bits, bitorder="little")
    weights = (1 << np.arange(codec.bits)).astype(np.float32)
    codes = bits.reshape(n, classes, codec.bits).astype(np.float32) @ weights
    offset, step = arrays["scale"].astype(np.float32).T[:, :, None]
    return np.asarray(offset + codes * step, np.float32)


def _encode_topk(values: Wide, codec: LabelCodec) -> Arrays:
    index = np.argsort(-values, axis=1, kind="stable")[:, : codec.k]
    largest = np.take_along_axis(values, index, axis=1)
    rest = ((values.sum(axis=1) - largest.sum(axis=1)) / (values.shape[1] - codec.k)).astype(np.float16)
    above = largest - rest[:, None]
    step = np.float32(max(above.max(initial=0.0), np.finfo(np.float32).tiny) / 255)
    step = np.nextafter(step, np.float32(np.inf))
    codes = np.rint(np.clip(above / np.float64(step), 0, 255)).astype(np.uint8)
    kind = _layout(codec, *values.shape)["index"][0]
    return {"codes": codes, "index": index.astype(kind), "rest": rest, "step": step.reshape(1)}


def _decode_topk(arrays: Arrays, n: int, classes: int, codec: LabelCodec, what: str) -> npt.NDArray[np.float32]:
    index = arrays["index"].astype(np.int64)
    if index.size and not (index.min() >= 0 and index.max() < classes):
        raise DatastillError(f"'{what}' has values of 'index' outside 0..{classes - 1}.")
    rest = arrays["rest"].astype(np.float32)[:, None]
    values = np.repeat(rest, classes, axis=1)
    np.put_along_axis(values, index, rest + arrays["codes"].astype(np.float32) * arrays["step"], axis=1)
    return values


def _encode_klt(values: Wide, codec: LabelCodec) -> Arrays:
    """Rotate, quantise, and entropy code column by column.

    The step is the largest whose squared error is `error` of the squares of the centred rows; so at high temperatures
    about that share of the KL to uniform labels is lost. The basis is kept for as many columns as pay for themselves.
    """
    centred = values - values.mean(axis=1, keepdims=True)
    mean = centred.mean(axis=0).astype(np.float16) if len(values) else np.zeros(values.shape[1], np.float16)
    x, allowed = centred - mean, codec.error * float(np.square(centred).sum())
    axes = _principal(x)
    kept = _columns(x[:: -(-len(x) // SAMPLE) or 1] @ axes, allowed / max(len(x), 1), 2.0 * values.shape[1], len(x))
    basis = axes[:, :kept].astype(np.float16)
    rounded = basis.astype(np.float64)
    # Least squares on the basis as stored: what float16 bends of it is then no error.
    coefficients = np.linalg.solve(rounded.T @ rounded, (x @ rounded).T).T
    outside = max(0.0, float(np.square(x - coefficients @ rounded.T).sum()))
    step = np.float32(_step(coefficients, allowed - outside))
    codes = np.rint(coefficients / np.float64(step)).astype(np.int64)
    most = int(np.abs(codes).max(initial=0))
    width = 1 if most < 1 << 7 else 2 if most < 1 << 15 else 4
    planes = codes.T.astype(f"<i{width}").reshape(-1, 1).view(np.uint8).T
    stored = pa.Codec("brotli", BROTLI).compress(planes.tobytes(), asbytes=True)
    return {"basis": basis, "codes": np.frombuffer(stored, np.uint8).copy(), "mean": mean,
            "step": step.reshape(1), "width": np.array([width], np.uint8)}  # fmt: skip


def _decode_klt(arrays: Arrays, n: int, classes: int, codec: LabelCodec, what: str) -> npt.NDArray[np.float32]:
    basis, width = arrays["basis"].astype(np.float64), int(arrays["width"][0])
    kept = basis.shape[1]
    if not 1 <= kept <= classes or width not in (1, 2, 4):
        raise DatastillError(
            f"'{what}' has a basis of {kept} columns for {classes} classes, or codes of {width} bytes."
        )
    size = n * kept * width
    try:  # as a stream, since what is too short or too long for a block would go unnoticed there
        with pa.CompressedInputStream(pa.BufferReader(arrays["codes"].tobytes()), "brotli") as stream:
            planes = stream.read(size + 1)
    except (pa.ArrowException, OSError) as error:
        raise DatastillError(f"'{what}' is damaged: its codes are no {size} bytes under Brotli.") from error
    if len(planes) != size:
        raise DatastillError(f"'{what}' is damaged: its codes are not {size} bytes under Brotli.")
    codes = np.ascontiguousarray(np.frombuffer(planes, np.uint8).reshape(width, -1).T).view(f"<i{width}")
    # In double precision, so that machines whose sums run in another order agree after rounding, but for rare ties.
    coefficients = codes.reshape(kept, n).T * arrays["step"].astype(np.float64)
    return np.asarray(coefficients @ basis.T + arrays["mean"].astype(np.float64), np.float32)


def _principal(x: Wide) -> Wide:
    """Return the principal axes [K, K] of rows x[N, K], most variance first, each with its largest entry positive."""
    _, axes = np.linalg.eigh(x.T @ x)
    axes = axes[:, ::-1]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)
    return axes * np.where(largest < 0, -1.0, 1.0)


def _columns(c: Wide, allowed: float, cost: float, rows: int) -> int:
    """Return how many columns to keep, by the entropy of their codes and the cost in bytes of a column's axis.

    Args:
        c: coefficients of a sample of rows, [n, K].
        allowed: squared error per row.
        cost: bytes of an axis.
        rows: N, for which the axes are paid once.
    """
    n = max(len(c), 1)
    dropped = np.append(np.square(c)[:, ::-1].sum(axis=0).cumsum()[::-1], 0.0) / n
    least = min(int((dropped >= allowed).sum()) or 1, c.shape[1])
    best, fewest = int(c.shape[1]), np.inf
    for kept in sorted({int(v) for v in np.linspace(least, c.shape[1], TRIED)}):
        codes = np.rint(c[:, :kept] / _step(c[:, :kept], (allowed - dropped[kept]) * n)).astype(np.int64)
        if kept > least and not codes[:, -1].any():
            break  # this and all further columns would be zero
        size = sum(_entropy(column) for column in codes.T) * rows / n + cost * kept
        if size < fewest:
            best, fewest = kept, size
    return best


def _entropy(codes: npt.NDArray[np.int64]) -> float:
    """Return the bytes of these whole numbers under an ideal code of order 0."""
    counts = np.unique(codes, return_counts=True)[1]
    return float(-(counts * np.log2(counts / max(len(codes), 1))).sum() / 8)


def _step(c: Wide, allowed: float) -> float:
    """Return the largest step whose rounding leaves at most this squared error, by halving intervals."""
    high = 2.0 * float(np.abs(c).max(initial=0.0))
    low = high * 2.0**-30
    if high == 0 or allowed <= 0:
        return low or 1.0
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        off = float(np.square(c - np.rint(c / middle) * middle).sum())
        low, high = (middle, high) if off <= allowed else (low, middle)
    return low
