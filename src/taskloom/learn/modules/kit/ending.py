"""The end of a model: the final feature, and the head that reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from taskloom.errors import PlanError
from taskloom.learn.modules.kit.hooks import Edit, Pass, attached
from taskloom.learn.probe import Probe, Weights

#: weight ``(C, D)`` and bias ``(C,)`` or None
Top = tuple[Tensor, Tensor | None]


@dataclass(frozen=True, eq=False)
class Ending:
    """Runs a probe so that its final feature can be seen, changed, and read by another head.

    Attributes
    ----------
    probe
        The model under a task's head.
    place
        The module whose input is the feature; None where the head is outside the module, and the
        feature is what it pools.
    """

    probe: Probe
    place: str | None

    @classmethod
    def of(cls, probe: Probe, inputs: Any) -> Ending:
        """Find the end of a model; where the head is inside, it is the last linear layer that runs.

        Raises
        ------
        PlanError
            The model has no linear layer.
        """
        if probe.features is not None:
            return cls(probe, None)
        seen: list[str] = []

        def note(name: str) -> Edit:
            def change(module: nn.Module, given: Tensor, out: Tensor, run: Pass) -> Tensor:
                seen.append(name)
                return out

            return Edit(name, change)

        linears = [name for name, m in probe.module.named_modules() if isinstance(m, nn.Linear)]
        with torch.no_grad(), attached(probe.module, map(note, linears)):
            probe.logits(inputs)
        if not seen:
            raise PlanError(
                f"{probe.label} has no linear layer, whose input would be its final feature",
                hint="Give a model that ends with one",
            )
        return cls(probe, seen[-1])

    @property
    def where(self) -> str:
        """How the place is written down: its name, or ``pooled``."""
        return "pooled" if self.place is None else self.place

    def top(self, weights: Weights) -> Top:
        """Return the head's weight and bias; ``weights`` replace the probe's."""
        if self.place is None:
            if self.probe.head is None:
                raise PlanError(f"{self.probe.label} has no head", hint="Give a probe with a head")
            return self.probe.head
        known = {**self.probe.weights, **weights}
        weight, bias = (self.probe.places.get(f"{self.place}.{leaf}") for leaf in ("weight", "bias"))
        if weight is None:
            raise PlanError(f"{self.probe.label}: the weights of its head {self.place!r} are not known")
        return known[weight], None if bias is None else known[bias]

    def run(
        self,
        weights: Weights,
        inputs: Any,
        *,
        edits: Iterable[Edit] = (),
        change: Callable[[Tensor], Tensor] | None = None,
        top: Top | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run a batch in eval mode.

        Parameters
        ----------
        weights
            Replace the probe's, those they name.
        edits
            In force while it runs.
        change
            Of the final feature.
        top
            Used instead of the head.

        Returns
        -------
        The final feature as the head sees it ``(B, D)``, and logits ``(B, C)``.
        """
        if self.place is None:
            return self._run_pooled(weights, inputs, edits, change, top)
        seen: list[Tensor] = []

        def before(module: nn.Module, given: Tensor, out: Tensor, run: Pass) -> Tensor:
            seen[:] = [given if change is None else change(given)]
            return seen[0]

        def after(module: nn.Module, given: Tensor, out: Tensor, run: Pass) -> Tensor:
            return out if top is None else linear(seen[0], *top)

        mine = (Edit(self.place, before, before=True), Edit(self.place, after))
        with attached(self.probe.module, (*edits, *mine)):
            logits = self.probe.logits(inputs, weights)
        return seen[0], logits

    def _run_pooled(
        self,
        weights: Weights,
        inputs: Any,
        edits: Iterable[Edit],
        change: Callable[[Tensor], Tensor] | None,
        top: Top | None,
    ) -> tuple[Tensor, Tensor]:
        features = self.probe.features
        assert features is not None
        was = self.probe.module.training
        self.probe.module.eval()
        try:
            with attached(self.probe.module, edits):
                found = features({**self.probe.weights, **weights}, inputs)
        finally:
            self.probe.module.train(was)
        found = found if change is None else change(found)
        return found, linear(found, *(top or self.top({})))


def edited_logits(probe: Probe, weights: Weights, inputs: Any, edits: Iterable[Edit]) -> Tensor:
    """Return the logits of a batch in eval mode, with edits in force."""
    with attached(probe.module, edits):
        return probe.logits(inputs, weights)
