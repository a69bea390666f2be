"""Checkpoint averaging: the last snapshots of one run, or all of them, the newer the heavier."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taskloom.algebra import Chain, chain
from taskloom.algebra.snapshots import Over, average_snapshots
from taskloom.registry import register


@register(
    "merge",
    paper="Vaswani et al., NeurIPS 2017, section 6.1 (last k); Izmailov et al., UAI 2018, algorithm 1 "
    "(SWA); Kaddour, arXiv 2209.14981 (LAWA)",
    needs=("experts",),
    partly={
        "Checkpoint averaging for XLT": "averages of one run's snapshots, and averages of such; the "
        " cross-lingual evaluation is not there"
    },
)
def checkpoint_average(
    *,
    over: Over = "swa",
    last: Annotated[int, Field(ge=1)] = 5,
    start: Annotated[float, Field(ge=0, lt=1)] = 0.75,
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999,
) -> Chain:
    """Average snapshots of one run, given oldest first.

    - ``over="swa"``: the mean of those after the share ``start`` of the run, as the running mean of SWA
      (the paper starts at 75 % of training).
    - ``"last"``: the mean of the ``last`` ones (5 for the base Transformer, 20 for the big one; LAWA
      takes the same mean during training).
    - ``"ema"``: ``e <- decay e + (1 - decay) theta`` from the first one on, without bias correction.

    Papers and released code agree. Running means of batch norm are averaged with the rest, which is a
    first guess only: estimate them anew (``taskloom merge --reestimate-batchnorm``).

    Parameters
    ----------
    over
        Which average.
    last
        How many snapshots ``"last"`` takes.
    start
        Share of the snapshots that ``"swa"`` leaves out.
    decay
        Of ``"ema"``, per snapshot.

    Equation
    --------
    last:  θ = (1/k) Σ θₛ over the last k of the S snapshots
    swa:   θ = mean of θₛ over those after the share `start` of the run
    ema:   e₁ = θ₁,  eₛ = d eₛ₋₁ + (1 − d) θₛ,  θ = e_S

    When to use
    -----------
    Snapshots of one run at a constant or high learning rate.

    When not
    --------
    Experts of different tasks; runs whose learning rate has decayed to nothing have little to gain.
    """
    step = average_snapshots(over, last=last, start=start, decay=decay)
    return chain(step, space="weight")
