"""Twin-Merging: what all experts share, and beside it what is exclusive to each, compressed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from taskloom.algebra import Chain, Scalar, chain, total
from taskloom.algebra import scale as scaled
from taskloom.algebra.beside import beside
from taskloom.algebra.twin import Form, low_rank_part, own_row, shrinks, sparse_part
from taskloom.merging.exclusive import Exclusive
from taskloom.registry import register

Share = Annotated[float, Field(ge=0, le=1)]


@register(
    "merge",
    paper="Lu et al., Twin-Merging, NeurIPS 2024 (compression)",
    needs=("base", "experts"),
    partly={
        "Twin-Merging": "the shared expert, the compressed exclusive parts and the bytes they take are "
        "here, the router is the module twin_router"
    },
)
def twin_merging(
    *,
    task: str | None = None,
    share: Share = 0.1,
    scale: Scalar = 0.3,
    form: Form = "low_rank",
    skip: Sequence[str] = (),
) -> Chain:
    """Add up task vectors into a shared model; each task adds the leading part of what it lacks.

    ``theta* = theta_0 + scale * sum_t tau_t`` is shared; exclusive to task t is
    ``v_t = theta_t - theta*``, of which each matrix keeps ``int(share * min(rows, columns))`` singular
    triplets. The model of a task is ``theta* + v_t``. ``task`` names the expert whose model is wanted;
    None gives ``theta*``. With all of ``v_t`` it is the expert itself.

    ``form="sparse"`` keeps the ``int(share * n)`` largest entries of each tensor, one of the code's
    other strategies. Released code compresses all but 1-d tensors and leaves classifiers and biases
    out, which stay each expert's own; here tensors with fewer than two dimensions are each expert's
    own, as are those that ``skip`` names a part of, and matrices whose factors would take no less room.
    Kernels of convolutions are matrices here (first dimension by the rest), for which released code has
    no rule. Its configuration has a scale of 0.29. The small module ``twin_router`` mixes
    the parts for every input.

    ``taskloom.merge_parts`` keeps the shared model and the exclusive parts of all tasks in one folder.

    Equation
    --------
    θ* = θ₀ + λ Σₖ τₖ,   vₖ = θₖ − θ*
    model of task k:  θ* + the leading int(share · min(rows, columns)) singular triplets of vₖ

    When to use
    -----------
    The task of an input is known, and a tenth of the weights per task may be kept.

    When not
    --------
    One model for all tasks; inputs of unknown task, for which there is the module ``twin_router``.
    """
    shared = chain(total(), scaled(scale))
    if task is None:
        return shared
    part = low_rank_part(task, share) if form == "low_rank" else sparse_part(task, share)
    return chain(
        beside(shared), part, otherwise=chain(own_row(task)), only=shrinks(form, share, tuple(skip))
    )


def parts(
    *, share: float = 0.1, scale: Scalar = 0.3, form: Form = "low_rank", skip: Sequence[str] = ()
) -> tuple[Chain, Exclusive]:
    """Return the chain that makes the shared model, and how exclusive parts are kept beside it."""
    return chain(total(), scaled(scale)), Exclusive(form, share, tuple(skip))
