"""A workshop of real encoders and tasks: heads are fitted on features, encoders tuned under them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from taskloom.errors import PlanError
from taskloom.evaluation.data import TaskData
from taskloom.evaluation.score import score
from taskloom.learn.mixed import Part, train_mixture
from taskloom.learn.options import TrainOptions
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head
from taskloom.runs.desk import Desk
from taskloom.runs.heads import head_for
from taskloom.runs.loops.workshop import Model, Reading, Tuned
from taskloom.runs.workspace import numeric_versions
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

#: whose features heads are fitted on: the base's, once, or those of the model that is tuned or read
Heads = Literal["base", "own"]


@dataclass(frozen=True, eq=False)
class EncoderShop:
    """Tunes and scores encoders of one base; test splits stay sealed.

    Attributes
    ----------
    desk
        The base, how to encode, and the stash.
    data
        The tasks.
    options
        Of training; ``steps``, ``seed`` and ``evaluate_every`` are set for each tuning.
    folder
        Where tuned models are kept until they are cleared.
    heads
        ``"base"``: one head per task, fitted on the base's features, serves every model. ``"own"``:
        fitted anew on the features of whatever model is tuned or scored (linear probing).
    """

    desk: Desk
    data: Mapping[str, TaskData]
    options: TrainOptions
    folder: Path
    heads: Heads = "base"

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(self.data)

    def head(self, task: str, model: Model | None = None) -> Head:
        """Return the head of a task, for a model if heads are fitted anew."""
        data = self.data[task]
        if self.heads == "base" or model is None:
            return self.desk.head(data)
        features = self._features(model, data.train.inputs)
        stash = self.desk.reader.workspace
        return head_for(stash, data.task, features, data.train.labels, seed=self.desk.seed)

    def tune(
        self,
        start: Path,
        mix: Mapping[str, float],
        *,
        steps: int,
        seed: int,
        judges: Sequence[str] = (),
    ) -> Tuned:
        """Tune all weights on a mixture of tasks; see `Workshop.tune`."""
        reader = self.desk.reader
        options = self.options.model_copy(
            update={
                "steps": steps,
                "seed": seed,
                "max_length": self.options.max_length or reader.options.max_length,
                "evaluate_every": self.options.evaluate_every if judges else steps,
                "patience": None,
            }
        )
        counted = set(judges) or set(mix)
        missing = counted - set(mix)
        if missing:
            raise PlanError(f"task {min(missing)!r} judges a mixture that it is no part of")
        parts = [
            Part(
                self.head(task, start),
                (self.data[task].train.inputs, self.data[task].train.labels),
                (self.data[task].validation.inputs, self.data[task].validation.labels),
                weight=weight,
                judges=task in counted,
            )
            for task, weight in mix.items()
        ]
        trained = train_mixture(
            start,
            parts,
            options,
            cache=self.folder,
            key_extra={"versions": numeric_versions()},
            progress=reader.progress,
        )
        return Tuned(trained.directory, steps, trained.best.accuracy)

    def read(self, model: Model, tasks: Sequence[str] | None = None) -> Reading:
        """Score a model on validation, with the metric of each task."""
        scores, answers = [], {}
        for task in self.tasks if tasks is None else tasks:
            data = self.data[task]
            features = self._features(model, data.validation.inputs)
            predicted = self.head(task, model).predict(features)
            labels = data.validation.labels
            answers[task] = (labels, predicted)
            scores.append(
                score(
                    labels,
                    predicted,
                    metric=data.task.metric,
                    split="validation",
                    seed=self.desk.seed,
                    task=task,
                )
            )
        return Reading(tuple(scores), answers)

    def save_head(self, task: str, model: Path, folder: Path) -> None:
        """Write the head of a task into ``folder/heads``."""
        self.head(task, model).save(folder)

    def probing(self) -> EncoderShop:
        """Return the same with heads of one's own."""
        return replace(self, heads="own")

    def clear(self) -> None:
        """Remove what was tuned."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _features(self, model: Model, inputs: Any) -> NDArray[np.float32]:
        reader = self.desk.reader
        if isinstance(model, Path):
            stored = SafetensorsCheckpoint(model)
            weights = {name: stored.read(name) for name in stored.tensors}
        else:
            weights = dict(model)
        return reader.encoder.features(
            inputs,
            weights=weights,
            batch_size=reader.options.batch_size,
            precision=reader.options.precision,
        )


def fits(base: Encoder, start: Path) -> None:
    """Refuse a start whose tensors are not those of the base.

    Raises
    ------
    CheckpointError
        Names or shapes that differ, by name.
    """
    from taskloom.store.pool import Expert, Pool

    Pool(SafetensorsCheckpoint(base.directory), (Expert("start", SafetensorsCheckpoint(start)),))
