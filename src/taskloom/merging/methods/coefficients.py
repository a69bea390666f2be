"""Coefficients that were learned: one per expert and layer, tensor or part of a tensor."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from taskloom.algebra import Chain, chain, elect, keep, scale, total, weigh
from taskloom.algebra.grouped import ALL, Numbers, Per, weigh_groups
from taskloom.errors import CheckpointError, PlanError
from taskloom.registry import register
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

#: expert -> one number, or group -> a number or one for each part
Values = dict[str, float | dict[str, float | list[float]]]


@register(
    "merge",
    paper="Yang et al., AdaMerging, ICLR 2024; Zhang et al., aTLAS, NeurIPS 2024",
    needs=("base", "experts", "unlabeled inputs"),
)
def coefficients(
    *,
    values: float | Values = 0.3,
    file: str | None = None,
    per: Per = "task",
    parts: Annotated[int, Field(ge=1)] = 1,
    parts_seed: int = 0,
    trim: Annotated[float, Field(gt=0, le=1)] | None = None,
) -> Chain:
    """Add task vectors times coefficients of their own, as `taskloom fit` learns them.

    ``theta = theta_0 + sum_t c_t[g] tau_t`` for the tensors (or entries) of group ``g``.

    With ``trim`` the task vectors are those of AdaMerging++: the share of largest magnitudes over the
    model, of which each expert keeps what agrees with the elected sign. As in its released code a tied
    vote takes the sign most entries elected, which costs a read, and one entry more is kept.

    Parameters
    ----------
    values
        One number for all; or expert -> one number; or expert -> group -> a number, or a list with one
        for each part.
    file
        Safetensors file with the numbers in place of ``values``: a tensor for every expert, and
        ``groups``, ``per``, ``parts`` and ``parts_seed`` in the header, as `taskloom fit` writes it.
        The other options but ``trim`` are then the file's.
    per
        What has a coefficient of its own. ``"task"``: the expert; ``"layer"``: a numbered block, or
        what else starts with the same part of a name; ``"tensor"``: every tensor (what AdaMerging
        calls layer-wise, and aTLAS a block); ``"block"``: each of the random ``parts`` of a tensor.
    parts
        With ``per="block"``: how many.
    parts_seed
        Of the parts. They are drawn by the tensor's name; in released code of aTLAS tensors of one
        shape share theirs, and tensors that are no matrices get nothing, which we take for mistakes.
    trim
        Share of entries that are kept, None keeps all.

    Equation
    --------
    θ = θ₀ + Σₖ cₖ[g] τₖ   for the entries of every group g

    When to use
    -----------
    With coefficients that a fit has found; by hand, to give layers of an expert weights of their own.

    When not
    --------
    Without coefficients: one number for all is task arithmetic.
    """
    if file is not None:
        values, per, parts, parts_seed = _read(file)
    if parts > 1 and per != "block":
        raise PlanError(f"coefficients: {parts} parts of a tensor go with per='block', not {per!r}")
    _check(values)
    before = chain() if trim is None else chain(keep(trim, "model", extra=1), elect("majority"))
    if not isinstance(values, Mapping):
        return chain(before, total(), scale(values))
    if per == "task":
        return chain(before, weigh({name: _single(name, of) for name, of in values.items()}), total())
    return chain(before, weigh_groups(values, per, parts=parts, seed=parts_seed), total())


def _single(name: str, numbers: Numbers) -> float:
    found: Any = numbers.get(ALL) if isinstance(numbers, Mapping) else numbers
    if not isinstance(found, int | float) or (isinstance(numbers, Mapping) and len(numbers) > 1):
        raise PlanError(
            f"coefficients: the expert {name!r} has several numbers, but per='task' takes one",
            hint="Say what they belong to: per='layer', 'tensor' or 'block'",
        )
    return float(found)


def _check(values: Any, where: str = "") -> None:
    """Refuse numbers that are not finite, and tables without any."""
    if isinstance(values, Mapping | list):
        if not values:
            raise PlanError(f"coefficients{where}: expected numbers, found none")
        for name, each in values.items() if isinstance(values, Mapping) else enumerate(values):
            _check(each, f"{where} {name!r}")
    elif not math.isfinite(values):
        raise PlanError(f"coefficients{where}: expected a finite number, found {values}")


def _read(file: str) -> tuple[Values, Per, int, int]:
    """Return what a file of coefficients holds."""
    stored = SafetensorsCheckpoint(file)
    try:
        said = stored.metadata
        per, parts = said["per"], int(said["parts"])
        seed, groups = int(said["parts_seed"]), list(json.loads(said["groups"]))
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{file}: expected groups, per, parts and parts_seed in the header, found {error!r}",
            hint="Take a file that taskloom fit wrote",
        ) from None
    if per not in ("task", "layer", "tensor", "block"):
        raise CheckpointError(f"{file}: there are no coefficients per {per!r}", hint="Fit it again")
    values: Values = {}
    for expert, info in stored.tensors.items():
        if info.shape != (len(groups), parts):
            raise CheckpointError(
                f"{file}: the expert {expert!r}: expected {[len(groups), parts]} numbers, one for each "
                f"group and part, found {list(info.shape)}",
                hint="Fit it again",
            )
        rows = stored.read(expert).double().tolist()
        values[expert] = {
            group: row[0] if parts == 1 else row for group, row in zip(groups, rows, strict=True)
        }
    return values, per, parts, seed  # type: ignore[return-value]
