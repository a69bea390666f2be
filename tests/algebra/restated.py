"""The rules of the algebra written down a second time, in plain numpy loops, from the papers."""

from __future__ import annotations

import math

import numpy as np


def largest(row: np.ndarray, count: int) -> np.ndarray:
    """Mark the ``count`` largest magnitudes of a vector; of equals the lower index."""
    order = sorted(range(len(row)), key=lambda i: (-abs(float(row[i])), i))
    mask = np.zeros(len(row), dtype=bool)
    mask[order[: max(0, min(count, len(row)))]] = True
    return mask


def keep_rows(tensor: np.ndarray, density: float, extra: int = 0) -> np.ndarray:
    """Keep ``int(n * density)`` largest of each row along the last axis."""
    rows = tensor.reshape(-1, tensor.shape[-1])
    count = int(rows.shape[1] * density) + extra
    return np.stack([row * largest(row, count) for row in rows]).reshape(tensor.shape)


def keep_tensor(tensor: np.ndarray, density: float, extra: int = 0) -> np.ndarray:
    flat = tensor.reshape(-1)
    return (flat * largest(flat, int(flat.size * density) + extra)).reshape(tensor.shape)


def keep_model(tensors: list[np.ndarray], density: float, extra: int = 0) -> list[np.ndarray]:
    """Keep everything not smaller than the ``int(d * n) + extra``-th largest of all tensors."""
    flat = np.concatenate([np.abs(t).reshape(-1) for t in tensors])
    count = int(flat.size * density) + extra
    if count == 0:
        return [np.zeros_like(t) for t in tensors]
    limit = np.sort(flat)[max(flat.size - count, 0)]
    return [np.where(np.abs(t) >= limit, t, 0) for t in tensors]


def cut_rows(tensor: np.ndarray, share: float) -> np.ndarray:
    rows = tensor.reshape(-1, tensor.shape[-1])
    count = int(rows.shape[1] * share)
    return np.stack([row * ~largest(row, count) for row in rows]).reshape(tensor.shape)


def elect(values: np.ndarray, tie: str = "zero", weights: list[float] | None = None) -> np.ndarray:
    """Zero what disagrees with the sign of the (weighted) sum; ``values`` (K, n), looped."""
    experts, n = values.shape
    weights = weights or [1.0] * experts
    out = np.zeros_like(values)
    signs = [np.sign(sum(weights[k] * values[k, i] for k in range(experts))) for i in range(n)]
    majority = 1.0 if sum(signs) > 0 else -1.0
    for i, sign in enumerate(signs):
        if sign == 0:
            sign = {"zero": 0.0, "plus": 1.0, "majority": majority}[tie]
        for k in range(experts):
            if sign != 0 and np.sign(weights[k] * values[k, i]) == sign:
                out[k, i] = values[k, i]
    return out


def mean_kept(values: np.ndarray, weights: list[float] | None = None) -> np.ndarray:
    experts, n = values.shape
    weights = weights or [1.0] * experts
    out = np.zeros(n, dtype=values.dtype)
    for i in range(n):
        kept = [k for k in range(experts) if values[k, i] != 0]
        share = sum(weights[k] for k in kept)
        if kept and share != 0:
            out[i] = sum(weights[k] * values[k, i] for k in kept) / share
    return out


def slerp(a: np.ndarray, b: np.ndarray, t: float, threshold: float = 0.9995) -> np.ndarray:
    """Shoemake's formula on whole vectors, in float64."""
    flat_a, flat_b = (x.astype(np.float64).reshape(-1) for x in (a, b))
    lengths = [math.sqrt(float((x * x).sum())) for x in (flat_a, flat_b)]
    if min(lengths) > 1e-8:
        cosine = float(flat_a @ flat_b) / (lengths[0] * lengths[1])
        if abs(cosine) < threshold:
            angle = math.acos(cosine)
            parts = math.sin((1 - t) * angle) * flat_a + math.sin(t * angle) * flat_b
            return (parts / math.sin(angle)).reshape(a.shape)
    return ((1 - t) * flat_a + t * flat_b).reshape(a.shape)
