"""What the verbs that need no plan work at: an encoder, a pool, and features kept in the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taskloom.evaluation.data import TaskData
from taskloom.evaluation.load import load_task
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head
from taskloom.progress import Progress
from taskloom.runs.candidates import Candidate
from taskloom.runs.features import Reader
from taskloom.runs.heads import head_for
from taskloom.runs.plan import Evaluation, Limits
from taskloom.runs.workspace import Workspace
from taskloom.store.cache import cache_root
from taskloom.store.hub import resolve_model
from taskloom.store.open import Source
from taskloom.store.pool import Expert

#: experts or models in order, or by name
Sources = Sequence[Source | Expert] | Mapping[str, Source | Expert]


@dataclass(frozen=True)
class Desk:
    """A base encoder and a reader whose features are stashed in the cache."""

    reader: Reader
    base: Candidate
    seed: int

    def head(self, data: TaskData) -> Head:
        """Fit the task's head on frozen base features, or take it from the stash."""
        name = data.task.name
        features = self.reader.read([self.base], [data], "train")["base", name]
        stash = self.reader.workspace
        return head_for(stash, data.task, features, data.train.labels, seed=self.seed)

    def load(self, task: str, limits: Limits, *, labels: int | None = None) -> TaskData:
        """Load a task within the limits; or with so many labels, training and validation together."""
        return load_task(
            task,
            seed=self.seed,
            max_train=limits.train if labels is None else None,
            max_validation=limits.validation if labels is None else None,
            n_labels=labels,
            max_test=limits.test,
            progress=self.reader.progress,
        )


def open_desk(base: str, *, seed: int, progress: Progress, options: Evaluation | None = None) -> Desk:
    """Load the base (a directory or hub id) and open the stash in the cache."""
    options = options or Evaluation()
    encoder = Encoder.load(resolve_model(base), max_length=options.max_length)
    reader = Reader(Workspace(cache_root() / "desk"), encoder, options, progress)
    return Desk(reader, Candidate("base", "base", "Base", encoder.digest(), encoder.state_dict), seed)


def by_name_or_order(sources: Sources) -> tuple[list[Source | Expert], list[str] | None]:
    """Split a mapping into sources and names; a sequence has no names, and one path is one source."""
    if isinstance(sources, Mapping):
        return list(sources.values()), list(sources)
    return [sources] if isinstance(sources, str) else list(sources), None
