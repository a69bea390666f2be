"""``taskloom.select``: which expert helps this target, ranked from a few labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taskloom.choose.rank import DEFAULT_SCORES, Ranking, ScoreSpec, rank
from taskloom.evaluation.load import load_task
from taskloom.progress import Progress, silent
from taskloom.runs.candidates import singles
from taskloom.runs.desk import Sources, by_name_or_order, open_desk
from taskloom.store.pool import open_pool


@dataclass(frozen=True)
class Selection:
    """The experts of a pool ranked for one target, by every score asked for."""

    target: str
    n_labels: int
    rankings: tuple[Ranking, ...]

    @property
    def agreement(self) -> dict[str, int]:
        """How many scores rank each expert first."""
        votes = {entry.expert: 0 for entry in self.rankings[0].entries}
        for ranking in self.rankings:
            votes[ranking.best] += 1
        return votes


def select(
    target: str,
    base: str,
    experts: Sources,
    *,
    scores: Sequence[ScoreSpec] = DEFAULT_SCORES,
    n_labels: int = 64,
    seed: int = 0,
    progress: Progress = silent,
) -> Selection:
    """Rank the experts for a target from ``n_labels`` labelled examples; the test split stays sealed.

    Parameters
    ----------
    target
        Registered task, or path of an annotation.
    base
        Directory or hub id the experts were tuned from.
    experts
        Directories, hub ids or adapters, in order or by name.
    scores
        Registered transferability scores, each a name or ``(name, options)``.
    n_labels
        Labelled examples of the target that may be used, in total.

    Raises
    ------
    UnknownName, DataError, CheckpointError
        A name that is not registered, data or weights that do not fit.
    """
    desk = open_desk(base, seed=seed, progress=progress)
    sources, names = by_name_or_order(experts)
    pool = open_pool(desk.reader.encoder.directory, sources, names=names)
    data = load_task(target, seed=seed, n_labels=n_labels, progress=progress)
    candidates = singles(pool)[1:]
    halves = [desk.reader.read(candidates, [data], split) for split in ("train", "validation")]
    features = {
        name: np.concatenate([half[f"expert:{name}", data.task.name] for half in halves])
        for name in pool.names
    }
    labels = np.concatenate([data.train.labels, data.validation.labels])
    ranked = rank(features, labels, list(scores), progress=progress)
    return Selection(data.task.name, len(labels), tuple(ranked))
