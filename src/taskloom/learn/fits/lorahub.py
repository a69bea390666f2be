"""LoraHub: weights of many LoRA modules, searched for on a few examples."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from taskloom.learn.fitted import Fitted
from taskloom.learn.probe import Weights
from taskloom.learn.problem import Problem
from taskloom.learn.search.adapters import AdapterMixer
from taskloom.learn.search.budget import Budget
from taskloom.learn.search.fit import fit_by_search
from taskloom.learn.search.scorer import Scorer
from taskloom.learn.search.space import Gene, Space
from taskloom.learn.search.with_nevergrad import Nevergrad
from taskloom.registry import register

Variant = Literal["paper", "released"]


@register(
    "fit",
    paper="Huang et al., LoraHub, COLM 2024, section 3.3",
    needs=("labels", "adapters"),
    partly={
        "LoraHub": "the search over many modules from a few examples is there; that it matches "
        "in-context learning with as many examples was not measured"
    },
)
def lorahub(
    on: Problem,
    *,
    modules: Annotated[int, Field(ge=1)] = 20,
    combine: Literal["factors", "changes"] = "factors",
    strength: Annotated[float, Field(ge=0)] = 0.05,
    bound: Annotated[float, Field(gt=0)] = 1.5,
    variant: Variant = "paper",
    optimiser: Literal["cma", "ngopt"] = "cma",
    objective: str = "cross_entropy",
    prefer: Mapping[str, float] | None = None,
    evaluations: int = 40,
    minutes: float | None = None,
) -> Fitted:
    """Search the weights of LoRA modules on a few labelled examples, without gradients.

    ``min_w L(w) + strength * |w|_1`` over ``|w_i| <= bound``, from ``w = 0`` (the base), by an optimiser
    of nevergrad. The merged adapter has the sums ``sum w_i A_i`` and ``sum w_i B_i`` as factors (the
    merging method ``lorahub``), so it keeps the rank of one.

    Of a larger pool ``modules`` experts are drawn at random with the problem's seed; the rest get
    weight 0.

    ``variant="paper"``: L is the mean loss over the examples, ``|w|_1`` the sum. ``"released"``
    (df73afe): L is the sum of the batches' means divided by the number of examples, ``|w|_1`` the mean
    over the modules; with one batch of 5 examples the loss weighs a fifth of what the paper says.
    The paper names CMA-ES as the optimiser; released code asks NGOpt (``optimiser="ngopt"``), which in
    nevergrad 1.0.12 takes COBYLA for so few evaluations. The change is quadratic in w, so w = 0 is flat,
    and a search by small steps such as COBYLA's can stay there. Released code takes what nevergrad
    recommends, with CMA-ES a mean that was never measured; here the best that was measured is taken.

    Parameters
    ----------
    modules
        How many experts take part at most.
    combine
        ``"factors"`` as LoraHub does; ``"changes"`` adds up ``w_i B_i A_i`` instead, without cross
        terms, which is task arithmetic with weights and takes full fine-tunes, too.
    strength
        Of the L1 penalty.
    bound
        Largest weight, up or down.
    optimiser
        ``"cma"`` or ``"ngopt"``.
    objective
        A registered objective, or ``error``, the share of wrong predictions.
    prefer
        Weight of each task in the loss; all alike if there is none.
    evaluations
        Budget; the optimiser is chosen by it.
    minutes
        Further budget, of merging and running candidates.

    Raises
    ------
    PlanError
        A budget too small for one evaluation, an expert that is no adapter, ranks that differ.
    DataError
        Examples without labels.
    MissingExtra
        nevergrad is not installed.
    """
    budget = Budget(evaluations, minutes)
    chosen = drawn(on.names, modules, on.seed)
    if combine == "factors":
        method, fixed = "lorahub", {}
        mixer = AdapterMixer(on, chosen)
        made: Callable[[Mapping[str, Any]], Weights] | None = lambda c: mixer(c["weights"])  # noqa: E731
    else:
        method, fixed, made = "task_arithmetic", {"scale": 1.0}, None
    genes = tuple(Gene(("weights", name), 0.0, -bound, bound) for name in chosen)
    rest = dict.fromkeys((name for name in on.names if name not in chosen), 0.0)
    space = Space(genes, {**fixed, "weights": rest}, finish=lambda options: _ordered(options, on.names))
    released = variant == "released"
    proposer = Nevergrad(space, evaluations=evaluations, optimiser=optimiser, seed=on.seed)
    return fit_by_search(
        on,
        proposer,
        method,
        label="lorahub",
        scorer=Scorer(on, objective, "sum of means" if released else "mean"),
        budget=budget,
        prefer=prefer or {},
        weights=made,
        penalty=lambda c: penalty({n: c["weights"][n] for n in chosen}, strength, variant),
        said={
            "modules": ", ".join(chosen),
            "penalty": f"{strength:g} x {'mean' if released else 'sum'} of |w|",
            "optimiser": proposer.name,
        },
    )


def drawn(names: tuple[str, ...], modules: int, seed: int) -> tuple[str, ...]:
    """Return the experts that take part, in pool order.

    >>> drawn(("a", "b", "c"), 20, 0), len(drawn(("a", "b", "c"), 2, 0))
    (('a', 'b', 'c'), 2)
    """
    if modules >= len(names):
        return names
    kept = random.Random(seed).sample(names, modules)
    return tuple(name for name in names if name in kept)


def penalty(weights: Mapping[str, float], strength: float, variant: Variant) -> float:
    """Return ``strength`` times the sum (paper) or the mean (released code) of the sizes of the weights.

    >>> penalty({"a": 0.5, "b": -0.25}, 0.5, "released")
    0.1875
    """
    total = sum(abs(weight) for weight in weights.values())
    return strength * (total / len(weights) if variant == "released" else total)


def _ordered(options: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {**options, "weights": {name: options["weights"][name] for name in names}}
