"""Fitting a module by name, and a saved one on a plain model."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from taskloom import __version__
from taskloom.errors import PlanError, nearest
from taskloom.learn.coefficients.descend import transductive
from taskloom.learn.modules.kit.artefact import FittedModule, open_fitted
from taskloom.learn.modules.kit.descend import ModuleStopped
from taskloom.learn.modules.kit.hooks import attached
from taskloom.learn.modules.kit.places import find_place
from taskloom.learn.modules.kit.plug import Plug
from taskloom.learn.modules.kit.weights import find_weight, reweighted
from taskloom.learn.problem import Problem
from taskloom.learn.search.scorer import context_of
from taskloom.registry import get
from taskloom.store.cache import canonical_digest
from taskloom.store.checkpoint import Checkpoint
from taskloom.store.open import Source, open_checkpoint


def fit_module(name: str, on: Problem, merged: Source | None = None, **options: Any) -> FittedModule:
    """Fit a small module on top of a merged model.

    Parameters
    ----------
    name
        ``surgery``, ``surgery_v2``, ``wemoe``, ...; see ``taskloom methods module``.
    on
        Models, experts and inputs.
    merged
        The merged model that the module sits on; the base if None, as modules over adapters want it.
    **options
        Of the module.

    Raises
    ------
    UnknownName, PlanError
        No such module or option, or a task without the expert it learns from.
    CheckpointError
        A merged model that is not of the base's kind.
    DataError
        A task without inputs, or without the labels that the module needs.
    ModuleStopped
        A loss or gradient that is not finite: step and task are named, and the last good module is kept.
    IntegrityError
        The state of an unfinished fit (`Problem.unfinished`) is damaged.
    """
    entry = get("module", name)
    checked = entry.validate(options)
    under = on.base if merged is None else open_checkpoint(merged)
    begun = time.perf_counter()

    def told(fitted: FittedModule) -> FittedModule:
        said = {
            "labels": "used" if "labels" in entry.needs else "not used",
            "split": on.split,
            "transductive": transductive(on),
            "examples": ", ".join(f"{task} {on.batches[task].count}" for task in on.tasks),
            "merged": under.label,
            "merged_digest": under.digest(),
            "base_digest": on.base.digest(),
            "seed": str(on.seed),
            "seconds": f"{time.perf_counter() - begun:.3f}",
            "bytes": str(fitted.bytes_stored),
            **fitted.said,
        }
        asked = entry.schema(**checked).model_dump(mode="json")
        return replace(fitted, options=asked, said=said)

    try:
        return told(entry.function(_named(on, name, under, options), under, **checked))
    except ModuleStopped as error:
        error.fitted = told(error.fitted)
        raise


def _named(on: Problem, name: str, under: Checkpoint, options: Mapping[str, Any]) -> Problem:
    """Say in the problem what is fitted, if an interrupted fit is to go on where it was."""
    if on.unfinished is None:
        return on
    asked = get("module", name).schema(**options).model_dump(mode="json")
    checked = context_of(replace(on, batches=on.validation))["examples"] if on.validation else None
    versions = [__version__, str(torch.__version__)]
    whole = [name, asked, under.digest(), context_of(on), dict(on.own), checked, on.seed, versions]
    return replace(on, fitting=canonical_digest(whole))


def plug_of(fitted: FittedModule) -> Plug:
    """Return a module, ready for a model; every file of a kind of module has a ``plug``."""
    found: Plug = sys.modules[get("module", fitted.kind).function.__module__].plug(fitted)
    return found


class TaskModel(nn.Module):
    """A model with a fitted module in force while it runs; the model itself is not changed.

    Called as the model is, with ``task`` beside its arguments. For what calls the model by itself,
    such as ``generate``, there is ``with opened.on(task):``.

    Attributes
    ----------
    model
        The model it was given; its weights are those of the merge that the module was fitted on.
    fitted
        The module.
    tasks
        What it was fitted for.
    """

    def __init__(self, model: nn.Module, fitted: FittedModule) -> None:
        super().__init__()
        self.model = model
        self.fitted = fitted
        self._plug = plug_of(fitted)
        self.tasks = self._plug.tasks
        for task in self.tasks:
            for edit in self._plug.edits(task):
                find_place(model, edit.place)
            for weight in self._plug.weights(task):
                find_weight(model, weight)

    def forward(self, *args: Any, task: str | None = None, **named: Any) -> Any:
        """Run the model with the module of a task in force.

        Raises
        ------
        PlanError
            No task was named where the module differs between them, or one it was not fitted for.
        """
        if self._plug.call is not None:
            return self._plug.call(self.model, args, named)
        with self.on(task):
            return self.model(*args, **named)

    @contextmanager
    def on(self, task: str | None = None) -> Iterator[nn.Module]:
        """Have the module of a task in force within the block; gives the model.

        Raises
        ------
        PlanError
            As `forward`; and for a module that runs the model anew for every input.
        """
        if self._plug.call is not None:
            raise PlanError(
                f"the module {self.fitted.kind!r} runs the model anew for every input, and cannot be in "
                "force while something else calls it",
                hint="Call the opened module itself",
            )
        known = self._known(task)
        edits = [
            replace(edit, place=find_place(self.model, edit.place)) for edit in self._plug.edits(known)
        ]
        with reweighted(self.model, self._plug.weights(known)), attached(self.model, edits):
            yield self.model

    def features(self, pooled: Tensor, task: str | None = None) -> Tensor:
        """Return pooled features ``(B, D)`` as the task's head is to see them."""
        known = self._known(task)
        return pooled if self._plug.features is None else self._plug.features(pooled, known)

    def logits(self, pooled: Tensor, task: str | None = None) -> Tensor:
        """Return the logits ``(B, C)`` of the module's own head for pooled features.

        Raises
        ------
        PlanError
            The module brings no head.
        """
        if self._plug.top is None:
            raise PlanError(
                f"the module {self.fitted.kind!r} brings no head of its own",
                hint="Use the task's head on features(pooled, task)",
            )
        known = self._known(task)
        return linear(self.features(pooled, known), *self._plug.top(known))

    def _known(self, task: str | None) -> str:
        if task is None and (self._plug.shared or len(self.tasks) == 1):
            return str(self.tasks[0])
        if task is None or task not in self.tasks:
            guess = None if task is None else nearest(task, self.tasks)
            did = f"did you mean {guess!r}? " if guess else ""
            raise PlanError(
                f"the module {self.fitted.kind!r} differs between tasks, and task {task!r} is none of "
                f"them: {did}It was fitted for: {', '.join(self.tasks)}"
            )
        return task


def open_module(source: FittedModule | str | os.PathLike[str], model: nn.Module) -> TaskModel:
    """Put a fitted module on a model, such as one that ``from_pretrained`` loaded.

    Parameters
    ----------
    source
        What `fit_module` returned, or the folder it was saved to; every file is held against its digest.
    model
        A model with the weights of the merge that the module was fitted on. Its names may lie inside
        another model's: ``encoder.layer.0`` is found as ``bert.encoder.layer.0``.

    Raises
    ------
    CheckpointError, IntegrityError
        No module there, or files that are not what was written.
    PlanError
        The model has no such places.
    """
    fitted = open_fitted(source)
    with torch.no_grad():
        return TaskModel(model, fitted).eval()
