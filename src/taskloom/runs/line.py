"""Merges at several settings of one option, made once where they lie on a line."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from taskloom.algebra import Chain, Stack
from taskloom.merging.executor import MergePlan, execute, plan_merge
from taskloom.merging.plain import finish
from taskloom.merging.program import Output
from taskloom.merging.recipe import Recipe
from taskloom.merging.statistics import Statistics
from taskloom.store.pool import Pool


class Line:
    """The merged weights at any setting of an option.

    A chain that ends with ``scale`` is linear in it, so it is merged once, at scale 1, and moved along
    the line from the base. The line is walked in float32, whatever the stored dtype, and rounded to
    that dtype where it stops; a merge at the setting itself can differ from it by rounding. `exact`
    gives that merge, from the rows that the one merge left for its last step.

    Parameters
    ----------
    recipe
        The recipe at a setting.
    option
        Its name.
    known
        Statistics of the experts, if the recipe needs any.

    Attributes
    ----------
    straight
        Whether the merges lie on a line; if not, every one is made by itself.
    seconds
        That the one merge took; 0 until it is made.
    """

    def __init__(
        self,
        pool: Pool,
        recipe: Callable[[float], Recipe],
        option: str,
        known: Statistics | None = None,
    ) -> None:
        self._pool, self._recipe, self._known = pool, recipe, known
        self.straight = pool.base is not None and is_linear(recipe, option)
        self.seconds = 0.0
        self._rows: dict[str, Tensor] = {}
        self._ends: tuple[Output, ...] = ()

    def at(self, setting: float) -> Mapping[str, Tensor]:
        """Return the merged weights at a setting."""
        if not self.straight:
            return self.exact(setting)
        with torch.inference_mode():
            self._merge_once()
            return {output.name: self._walked(output, setting) for output in self._ends}

    def exact(self, setting: float) -> Mapping[str, Tensor]:
        """Return the merge at a setting, with the bytes that it has when it is made by itself.

        Raises
        ------
        NumericalError
            A value that the stored dtype cannot hold.
        """
        with torch.inference_mode():
            if not self.straight:
                return dict(execute(self._plan(setting)))
            self._merge_once()
            outputs = self._plan(setting).program.outputs
            return {output.name: self._moved(output, output.info.dtype) for output in outputs}

    def _plan(self, setting: float) -> MergePlan:
        return plan_merge(self._pool, self._recipe(setting).chain, statistics=self._known)

    def _merge_once(self) -> None:
        """Merge as far as the last step, and keep the row of every tensor."""
        if self._ends:
            return
        begun = time.perf_counter()
        slices: dict[str, list[Tensor]] = {}
        chain = _keeping(self._recipe(1.0).chain, slices)
        for _ in execute(plan_merge(self._pool, chain, statistics=self._known), dtype=torch.float32):
            pass
        self.seconds = time.perf_counter() - begun
        self._rows = {name: torch.cat([each.reshape(-1) for each in s]) for name, s in slices.items()}
        self._ends = self._plan(1.0).program.outputs

    def _moved(self, output: Output, dtype: torch.dtype) -> Tensor:
        """Return the merged tensor of an output, in a dtype."""
        if output.chain is None:
            (source,) = output.experts
            return source.checkpoint.read(source.name).to(output.info.dtype)
        row = self._rows[output.name]
        stack = Stack(output.name, row[None], output.names, 0, output.info.numel)
        base = self._start(output).reshape(-1).to(row.dtype)
        moved = finish(base, output.chain.steps[-1].apply(stack, None), dtype)
        return moved.reshape(output.info.shape)

    def _walked(self, output: Output, setting: float) -> Tensor:
        """Return the tensor on the line through the base and the output, which is at setting 1."""
        end = self._moved(output, torch.float32)
        if output.chain is None:
            return end
        return torch.lerp(self._start(output).float(), end, setting).to(output.info.dtype)

    def _start(self, output: Output) -> Tensor:
        return self._pool.yardstick.read(output.name)


def _keeping(chain: Chain, slices: dict[str, list[Tensor]]) -> Chain:
    """Return the same chain, which leaves what its last step is given in ``slices``, in order."""
    last = chain.steps[-1]

    def apply(stack: Stack, known: Any) -> Stack:
        slices.setdefault(stack.name, []).append(stack.values[0])
        return last.apply(stack, known)

    otherwise = None if chain.otherwise is None else _keeping(chain.otherwise, slices)
    steps = (*chain.steps[:-1], replace(last, apply=apply))
    return replace(chain, steps=steps, otherwise=otherwise)


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
