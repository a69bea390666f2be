"""What speaks against merging these experts, from the sums over the whole model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from taskloom.choose.diff.result import Finding
from taskloom.choose.diff.sums import Sums

#: task vectors this long against the base, or an expert this unlike it, point to another base
LONG, UNLIKE = 0.5, 0.1
#: what may be left of a task vector that lies in the span of the others, over its norm
RESIDUAL = 1e-3
#: rounding a weight to its dtype moves it by up to about this share of the dtype's epsilon (root
#: mean square 0.2), which may be left over too, as long as it stays below `MOST`
ROUNDING, MOST = 0.4, 0.3


def look(
    names: Sequence[str], base: str, sums: Sums, unequal: NDArray[np.bool_], epsilons: Sequence[float]
) -> list[Finding]:
    """Return every finding about norms, equality and spans.

    Parameters
    ----------
    names
        The K experts.
    base
        The base's label.
    sums
        Over the whole model, without the tensors that hold NaN or infinity.
    unequal
        (K + 1, K + 1), the base first: over all tensors, integers included.
    epsilons
        (K,) distance from 1 to the next number in the dtype of each expert's weights.
    """
    equal_to_base = [k for k in range(len(names)) if not unequal[0, k + 1]]
    found = [
        Finding("equal-to-base", (names[k],), f"{names[k]} equals the base: it learned nothing to merge")
        for k in equal_to_base
    ]
    groups = _equal_groups(unequal, equal_to_base)
    for group in groups:
        twins = tuple(names[k] for k in group)
        if len(twins) > 1:
            text = f"{', '.join(twins[:-1])} and {twins[-1]}"
            message = f"{text} are identical: a merge would count the same weights {len(twins)} times"
            found.append(Finding("identical", twins, message))
    found += _wrong_bases(names, base, sums)
    return found + _merges(names, sums, [group[0] for group in groups], epsilons)


def not_finite(counts: Mapping[tuple[str, str], int]) -> list[Finding]:
    """Name every owner and tensor with NaN or infinity; ``counts`` is by (owner, tensor).

    The owner of the base's is the empty string.
    """
    return [
        Finding(
            "not-finite",
            (owner,) if owner else (),
            f"tensor {tensor!r} of {owner or 'the base'} holds {count} NaN or infinite "
            f"value{'s' if count != 1 else ''} and is left out of all numbers; a merge refuses it",
        )
        for (owner, tensor), count in counts.items()
    ]


def integers(names: Sequence[str], differing: Mapping[str, Sequence[int]]) -> list[Finding]:
    """Name integer tensors that differ from the base's: a merge takes over the base's."""
    return [
        Finding(
            "integers",
            tuple(names[k] for k in who),
            f"integer tensor {tensor!r} of {', '.join(names[k] for k in who)} differs from the base's, "
            "which a merge takes over",
        )
        for tensor, who in differing.items()
    ]


def _equal_groups(unequal: NDArray[np.bool_], left_out: Sequence[int]) -> list[list[int]]:
    """Group identical experts; experts equal to the base are in no group."""
    groups: list[list[int]] = []
    for k in range(len(unequal) - 1):
        if k in left_out:
            continue
        same = next((g for g in groups if not unequal[g[0] + 1, k + 1]), None)
        if same is None:
            groups.append([k])
        else:
            same.append(k)
    return groups


def _wrong_bases(names: Sequence[str], base: str, sums: Sums) -> list[Finding]:
    square = float(sums.gram[0, 0])
    if square == 0:
        return []
    found = []
    for k, name in enumerate(names):
        long = float(np.sqrt(sums.gram[k + 1, k + 1] / square))
        expert = square + 2 * float(sums.gram[0, k + 1]) + float(sums.gram[k + 1, k + 1])
        cosine = (square + float(sums.gram[0, k + 1])) / np.sqrt(square * expert) if expert > 0 else 0.0
        if long > LONG or abs(cosine) < UNLIKE:
            message = (
                f"{name} does not look tuned from {base}: its task vector is {long:.2f} times as long "
                f"as the base's weights (cosine of expert and base {cosine:.2f}); check the base"
            )
            found.append(Finding("wrong-base", (name,), message))
    return found


def _merges(
    names: Sequence[str], sums: Sums, members: Sequence[int], epsilons: Sequence[float]
) -> list[Finding]:
    """Find experts that are merges of others, the plainest first, and leave each out of the next.

    Where a = (b + c) / 2, b = 2 a - c holds as well; the one that adds the others up is the merge.
    """
    gram = sums.gram[1:, 1:]
    norms = np.sqrt(gram.diagonal())
    base = float(np.sqrt(sums.gram[0, 0]))
    left = [k for k in members if norms[k] > 0]
    found = []
    while len(left) > 1:
        candidates = []
        for k in left:
            rounding = ROUNDING * epsilons[k] * base / norms[k]
            allowed = max(RESIDUAL, min(rounding, MOST))
            parts, rest = fewest(gram, k, [j for j in left if j != k], allowed)
            if rest < allowed:
                subtracts = any(part < 0 for part in parts.values())
                candidates.append((subtracts, sum(map(abs, parts.values())), k, parts, rest))
        if not candidates:
            break
        _, _, k, parts, rest = min(candidates, key=lambda c: c[:3])
        found.append(_merge(names, k, parts, rest))
        left.remove(k)
    return found


def fewest(
    gram: NDArray[np.float64], k: int, others: Sequence[int], allowed: float
) -> tuple[dict[int, float], float]:
    """Return coefficients of few others that leave less than ``allowed`` of task vector k.

    Starts from all and leaves out what contributes least for as long as it can; where even all
    leave more, they are returned.
    """
    kept = list(others)
    parts, rest = solve(gram, k, kept)
    while rest < allowed and len(kept) > 1:
        weight = np.abs(parts) * np.sqrt(gram.diagonal()[kept])
        for at in np.argsort(weight, kind="stable"):
            fewer = [j for i, j in enumerate(kept) if i != at]
            fewer_parts, fewer_rest = solve(gram, k, fewer)
            if fewer_rest < allowed:
                kept, parts, rest = fewer, fewer_parts, fewer_rest
                break
        else:
            break
    return dict(zip(kept, map(float, parts), strict=True)), rest


def solve(gram: NDArray[np.float64], k: int, others: Sequence[int]) -> tuple[NDArray[np.float64], float]:
    """Return the coefficients of the others nearest to task vector k, and the relative residual.

    Least squares from inner products, on task vectors scaled to length 1; none may be zero.
    """
    members = [k, *others]
    scale = np.sqrt(gram.diagonal()[members])
    unit = gram[np.ix_(members, members)] / np.outer(scale, scale)
    system, right = unit[1:, 1:], unit[1:, 0]
    parts = np.linalg.pinv(system, rcond=1e-10, hermitian=True) @ right
    rest = 1.0 - 2.0 * parts @ right + parts @ system @ parts
    return parts * scale[0] / scale[1:], float(np.sqrt(max(rest, 0.0)))


def _merge(names: Sequence[str], k: int, parts: Mapping[int, float], rest: float) -> Finding:
    terms = [f"{'+' if part > 0 else '-'} {abs(part):.3g} {names[j]}" for j, part in parts.items()]
    told = " ".join(terms).removeprefix("+ ")
    return Finding(
        "already-merged",
        (names[k], *(names[j] for j in parts)),
        f"{names[k]} is already a merge: its task vector is {told} "
        f"(residual {rest:.1g}); merging it with them counts them twice",
    )
