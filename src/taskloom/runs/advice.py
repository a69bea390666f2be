"""What ``taskloom select --budget`` says: a table of sources, of scores, and how sure they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from taskloom.choose.contamination import Seen
from taskloom.errors import PlanError
from taskloom.store.adapter import AdapterCheckpoint
from taskloom.store.atomic import atomic_file
from taskloom.store.pool import Pool


@dataclass(frozen=True)
class ScoreReport:
    """One score: whether it was afforded, what it cost, and how far it can be trusted.

    Attributes
    ----------
    score
        Its name, with options.
    ran
        Whether every source was scored.
    reason
        Why not; or what is to be known of it.
    estimated, seconds
        What it would take for all sources, from what it took for the first; and what it took. None
        where it was not tried, or not run.
    halves
        Mean rank correlation between disjoint halves of the labels; None where that was not looked at.
    reliable
        Whether that is at least `taskloom.choose.reliability.LEAST`.
    agreement
        Mean rank correlation with the other scores that ran; None where there are none.
    """

    score: str
    ran: bool
    reason: str
    estimated: float | None = None
    seconds: float | None = None
    halves: float | None = None
    reliable: bool = False
    agreement: float | None = None


@dataclass(frozen=True)
class Advised:
    """One source.

    Attributes
    ----------
    expert
        Its name.
    place, mean_rank
        By the scores that count, together; 1 is best.
    low, high
        Between which places it lies on nine of ten halves of the labels; None where that is not known.
    loss
        Expected regret: accuracy of a probe or of nearest neighbours that is lost by taking it instead
        of the best, averaged over halves of the labels; None where neither was afforded.
    weight
        Share of the halves on which it is the best; equal where no score is reliable. They sum to 1.
    seen
        How many of the target's examples it was trained on; None where that is not known.
    ranks
        Score -> its place by that score alone.
    reasons
        Why it stands where it does, in words.
    """

    expert: str
    place: int
    mean_rank: float
    low: int | None
    high: int | None
    loss: float | None
    weight: float
    seen: Seen | None
    ranks: Mapping[str, int]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Advice:
    """What was found within the budget.

    Attributes
    ----------
    minutes, seconds
        The budget, and what was used of it.
    features_estimated, features_seconds
        What running the sources on the labelled examples would take, from a few examples and the first
        source, and what it took.
    scores, sources
        In the order tried; best first.
    loss_by
        The score whose accuracy ``loss`` is in; None where there is none.
    reliable
        Whether any score is.
    sentence
        What to make of it.
    warnings
        What to look into before using it.
    """

    minutes: float
    seconds: float
    features_estimated: float
    features_seconds: float
    scores: tuple[ScoreReport, ...]
    sources: tuple[Advised, ...]
    loss_by: str | None
    reliable: bool
    sentence: str
    warnings: tuple[str, ...]

    @property
    def weights(self) -> dict[str, float]:
        """Expert -> weight, best first."""
        return {each.expert: each.weight for each in self.sources}


def write_merge(advice: Advice, base: str, pool: Pool, path: Path) -> Path:
    """Write a file that ``taskloom merge FILE OUT`` carries out: the sources' changes by their weights.

    Sources of weight 0 are left out.

    Raises
    ------
    PlanError
        A source that is not on disk, or whose path the file cannot say.
    OutputError
        The file cannot be written.
    """
    import yaml

    models = []
    for each in advice.sources:
        checkpoint = pool.expert(each.expert).checkpoint
        where: Path | None = getattr(checkpoint, "path", None)
        if where is None or any(sign in str(where) + base for sign in "@+"):
            raise PlanError(
                f"expert {each.expert!r}: a merge's file names models by paths without '@' and '+', "
                f"found {checkpoint.label}",
                hint="Save it under another path, or merge by its weight from Python",
            )
        if each.weight > 0:
            adapter = isinstance(checkpoint, AdapterCheckpoint)
            name = f"{base}+{where}" if adapter else str(where)
            models.append({"model": name, "parameters": {"weight": round(each.weight, 6)}})
    plan = {
        "merge_method": "task_arithmetic",
        "base_model": base,
        "models": models,
        "parameters": {"normalize": False},
        "dtype": "float32",
    }
    text = f"# {advice.sentence}\n{yaml.safe_dump(plan, sort_keys=False)}"
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
