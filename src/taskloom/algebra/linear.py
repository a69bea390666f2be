"""Which chains are a linear combination of their experts, and with which numbers."""

from __future__ import annotations

from taskloom.algebra.core import Chain, Stack, Step
from taskloom.errors import PlanError
from taskloom.lazy import torch


def nonlinear_steps(chain: Chain) -> tuple[Step, ...]:
    """Return the steps that look at the values they are given, in order."""
    return tuple(step for step in chain.steps if not step.linear or step.measure is not None)


def linear_weights(chain: Chain, experts: tuple[str, ...]) -> tuple[float, ...] | None:
    """Return w with ``chain(v_1 ... v_K) = sum_k w_k v_k`` for all values, or None if there is none.

    A step says of itself that it is linear (`Step.linear`); that cannot be found out by trying. The
    numbers are not said a second time: the chain is run on K unit vectors, one per expert, and what
    comes out are the weights, so that they cannot disagree with what the chain computes. A step that
    does not promise to be linear makes the whole chain not linear.

    Parameters
    ----------
    chain
        Any chain. The numbers are those of its own space: task vectors or whole weights.
    experts
        Names in pool order, K of them.

    Raises
    ------
    PlanError
        Weights that do not fit the experts, or a chain that does not end with one row.

    Examples
    --------
    >>> from taskloom.algebra import chain, keep, scale, total, weigh
    >>> linear_weights(chain(weigh([1.0, 3.0]), total(), scale(0.5)), ("a", "b"))
    (0.5, 1.5)
    >>> linear_weights(chain(keep(0.2), total()), ("a", "b")) is None
    True
    """
    if nonlinear_steps(chain):
        return None
    count = len(experts)
    stack = Stack("unit vectors", torch.eye(count, dtype=torch.float64), experts, 0, count)
    for step in chain.steps:
        stack = step.apply(stack, None)
    if len(stack.values) != 1:
        raise PlanError(
            f"the recipe ends with {len(stack.values)} rows instead of one",
            hint="End the chain with an aggregate such as total or mean",
        )
    return tuple(stack.values[0].detach().tolist())
