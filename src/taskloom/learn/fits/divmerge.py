"""DivMerge: coefficients that keep the merged model close to each task's expert on its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from taskloom.algebra.grouped import Per
from taskloom.learn.coefficients.descend import Descent, Shape, descend, start_of, weights_of
from taskloom.learn.fitted import Fitted
from taskloom.learn.problem import Problem
from taskloom.registry import register


@register(
    "fit",
    paper="Touayouch et al., DivMerge, EACL 2026 (arXiv 2509.02108)",
    needs=("unlabeled",),
    partly={
        "DivMerge": "coefficients are learned without labels; that it stays above task arithmetic as "
        "the number of tasks grows has not been measured"
    },
)
def divmerge(
    on: Problem,
    *,
    per: Per = "layer",
    divergence: Literal["js", "kl", "rkl"] = "js",
    start: float | None = None,
    shape: Shape = "free",
    rate: Annotated[float, Field(gt=0)] = 1e-2,
    steps: Annotated[int, Field(ge=1)] = 300,
    passes: Annotated[int, Field(ge=1)] = 1,
    parts: Annotated[int, Field(ge=1)] = 1,
    prefer: Mapping[str, float] | None = None,
    check_every: Annotated[int, Field(ge=1)] | None = None,
    threads: Annotated[int, Field(ge=1)] | None = None,
    lean: bool = False,
) -> Fitted:
    """Learn coefficients that minimise the divergence to every task's own expert.

    ``min_c sum_t E_{x in D_t} JS(p_t(.|x) || p_c(.|x))``, p_t the expert of task t on its own inputs, by
    Adam. Divergences are bounded by ln 2, so that no task outweighs another. Experts run once, over the
    batches that will be seen; what they say is kept.

    Of the paper we could read the abstract and no code: task-wise and layer-wise coefficients, JS and KL
    are its; start, rate and steps are ours. The best coefficient can be above 1, so nothing is clamped.

    Parameters
    ----------
    per, parts
        What has a coefficient; ``"layer"`` and ``"task"`` are the paper's.
    divergence
        ``"js"``, ``"kl"`` from the expert's side, or ``"rkl"`` from the model's.
    start
        Of every coefficient; 1 / K if None. Shares start equal.
    shape, rate, steps, passes
        As in ``adamerging``.
    prefer
        Weight of each task in the loss, by their ratio; one that is left out has none. All alike if
        there is no preference.
    check_every
        Steps between checks on validation; the best coefficients are kept. None keeps the last.
    threads
        That stream task vectors; it changes no number.
    lean
        Keep no gradient of the model in memory; task vectors are read for every batch instead.

    Raises
    ------
    PlanError
        A start for shares; a preference for what is no task.
    """
    how = Descent(
        "js_divergence",
        {"divergence": divergence},
        per=per,
        parts=parts,
        parts_seed=on.seed,
        start=start_of("divmerge", shape, start, otherwise=1 / len(on.names), experts=len(on.names)),
        shape=shape,
        rate=rate,
        steps=steps,
        passes=passes,
        weights=weights_of(prefer, on.tasks),
        check_every=check_every,
        threads=threads,
        lean=lean,
    )
    return descend(on, how, name="divmerge")
