"""Merges at several settings of one option, made once where they lie on a line."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from taskloom.algebra import Chain
from taskloom.merging.executor import MergePlan, execute, plan_merge
from taskloom.merging.recipe import Recipe
from taskloom.merging.statistics import Statistics
from taskloom.store.pool import Pool


class Line:
    """The merged weights at any setting of an option.

    A chain that ends with ``scale`` is linear in it, so it is merged once, at scale 1, and moved along
    the line from the base. The line is walked in float32, whatever the stored dtype, and rounded to
    that dtype where it stops; a merge at the setting itself can differ from it by rounding.

    Parameters
    ----------
    recipe
        The recipe at a setting.
    option
        Its name.
    known
        Statistics of the experts, if the recipe needs any.
    """

    def __init__(
        self,
        pool: Pool,
        recipe: Callable[[float], Recipe],
        option: str,
        known: Statistics | None = None,
    ) -> None:
        self._pool, self._recipe, self._known = pool, recipe, known
        self._straight = pool.base is not None and is_linear(recipe, option)
        self._unit: dict[str, Tensor] = {}
        self._start: dict[str, Tensor] = {}
        self._moved: set[str] = set()

    def at(self, setting: float) -> Mapping[str, Tensor]:
        """Return the merged weights at a setting."""
        with torch.inference_mode():
            if not self._straight:
                return dict(execute(self._plan(setting)))
            if not self._unit:
                self._merge_once()
            return {
                name: torch.lerp(self._start[name].float(), value, setting).to(self._start[name].dtype)
                if name in self._moved
                else value
                for name, value in self._unit.items()
            }

    def _plan(self, setting: float) -> MergePlan:
        return plan_merge(self._pool, self._recipe(setting).chain, statistics=self._known)

    def _merge_once(self) -> None:
        plan = self._plan(1.0)
        self._unit = dict(execute(plan, dtype=torch.float32))
        self._moved = set(plan.parameters)
        self._start = {name: self._pool.yardstick.read(name) for name in self._unit}


def is_linear(recipe: Callable[[float], Recipe], option: str) -> bool:
    """Tell whether the option is the factor of the last step, and of that step alone.

    So it must be in the chain that makes what the main one leaves out, or that leaves the base as it is.
    """
    return option == "scale" and _straight(recipe(1.0).chain, recipe(0.5).chain)


def _straight(one: Chain, two: Chain) -> bool:
    heads = [[step.name for step in each.steps[:-1]] for each in (one, two)]
    lasts = [each.steps[-1].name if each.steps else "" for each in (one, two)]
    scaled = lasts in (["scale(1)", "scale(0.5)"], ["scale(-1)", "scale(-0.5)"], ["scale(0)"] * 2)
    if one.space != "delta" or heads[0] != heads[1] or not scaled:
        return False
    if one.otherwise is None or two.otherwise is None:
        return one.otherwise is two.otherwise
    return _straight(one.otherwise, two.otherwise)
