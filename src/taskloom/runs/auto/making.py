"""How a member becomes a model: as it is, merged, fitted, or fine-tuned on what may be seen."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from taskloom.learn.fitted import Fitted
from taskloom.learn.options import TrainOptions
from taskloom.merging.recipe import Recipe
from taskloom.models.head import Head
from taskloom.registry import get
from taskloom.runs.auto.workbench import Lot
from taskloom.runs.candidates import Candidate, merge_digest, merged, read_all
from taskloom.runs.train import tune as train_here
from taskloom.runs.trying import Merges, write_recipe
from taskloom.store.cache import canonical_digest
from taskloom.store.open import open_checkpoint
from taskloom.store.pool import Expert, Pool

#: examples of a step of a fine-tune
TUNING_BATCH = 32


@dataclass(frozen=True)
class Made:
    """A model.

    Attributes
    ----------
    candidate
        Its weights.
    head
        What it was trained under, if it keeps that.
    said
        What a fit says of itself.
    cached
        Seconds of a fit or training that was found done, which count as if it were done now, once.
    key
        What identifies that fit.
    """

    candidate: Candidate
    head: Head | None = None
    said: Mapping[str, str] | None = None
    cached: float = 0.0
    key: str = ""

    def price(self, paid: set[str]) -> float:
        """Return the seconds to add for what was found done and nobody has paid for."""
        return 0.0 if self.key in paid else self.cached


Make = Callable[[Lot], Made]


def as_it_is(candidate: Candidate) -> Make:
    """Return what makes a single model, whatever is seen."""
    return lambda _: Made(candidate)


def by_merging(name: str, title: str, pool: Pool, recipe: Recipe) -> Make:
    """Return what makes a merge, whatever is seen."""
    candidate = merged(pool, recipe, name=name, title=title)
    return lambda _: Made(candidate)


def by_fitting(
    name: str, title: str, pool: Pool, method: str, options: Mapping[str, Any], counted: str | None
) -> Make:
    """Return what fits a recipe's numbers on what is seen.

    Parameters
    ----------
    counted
        The option that is the number of steps or evaluations, of which a lot takes its share.
    """

    def make(lot: Lot) -> Made:
        given = dict(options)
        if counted is not None:
            given[counted] = shared(given[counted], lot.share)
        key = [name, list(pool.names), method, given]
        fitted, cached = _remembered(lot, key, pool, method, given)
        recipe = Recipe.of(fitted.method, **fitted.options)
        candidate = Candidate(
            name,
            "merge",
            title,
            merge_digest(pool, recipe),
            partial(Merges(pool), fitted.method, fitted.options),
            recipe=recipe,
        )
        return Made(candidate, None, fitted.said, cached, canonical_digest([lot.digest, key]))

    return make


def _remembered(
    lot: Lot, key: Any, pool: Pool, method: str, options: Mapping[str, Any]
) -> tuple[Fitted, float]:
    """Return what was fitted, and the seconds it took if that was not now."""
    now = []

    def fit() -> dict[str, Any]:
        begun = time.perf_counter()
        entry = get("fit", method)
        found: Fitted = entry.function(lot.problem(pool, key), **entry.validate(options))
        plain = {
            "method": found.method,
            "options": dict(found.options),
            "said": dict(found.said),
            "seconds": time.perf_counter() - begun,
        }
        now.append(1)
        return dict(json.loads(json.dumps(plain)))

    known = lot.bench.workspace.remember("fits", [lot.digest, key], fit)
    fitted = Fitted(known["method"], known["options"], said=known["said"])
    return fitted, 0.0 if now else float(known["seconds"])


def by_tuning(name: str, title: str, start: Expert | None) -> Make:
    """Return what fine-tunes the base, or an expert, on what is seen.

    The head is fitted on the start's features and stays as it is, as everywhere in this library.
    """

    def make(lot: Lot) -> Made:
        bench = lot.bench
        examples, data = bench.ground.examples, bench.ground.data
        options = TrainOptions.parse(
            {"batch_size": TUNING_BATCH, "seed": bench.ground.seed, **bench.tune}
        )
        wanted = options.steps or tuning_steps(len(lot.learns))
        options = options.model_copy(update={"steps": shared(wanted, lot.share)})
        begun = bench.desk.base if start is None else _single(start)
        head = lot.head(begun)
        split = replace(data, train=examples.take(lot.learns), validation=examples.take(lot.stops))
        folder = None if start is None else _directory(lot, start)
        trained = train_here(bench.desk.reader, head, split, options, start=folder)
        base = bench.pool.base
        assert base is not None
        checkpoint = open_checkpoint(trained.directory, base=base)
        candidate = Candidate(
            name, "expert", title, checkpoint.digest(), partial(read_all, checkpoint), data.task.name
        )
        said = {"steps": str(trained.steps), "learning rate": str(options.learning_rate or "default")}
        return Made(candidate, head, said, trained.seconds if trained.cached else 0.0, trained.key)

    return make


def tuning_steps(seen: int) -> int:
    """Return the steps of a fine-tune: five passes in batches of 32, but 30 at least and 60 at most.

    >>> tuning_steps(20), tuning_steps(300), tuning_steps(1000)
    (30, 47, 60)
    """
    return min(60, max(30, math.ceil(5 * seen / TUNING_BATCH)))


def shared(count: int, share: float) -> int:
    """Return a share of a number of steps, 5 at least where there are as many.

    >>> shared(60, 1.0), shared(60, 1 / 3), shared(60, 0.01), shared(3, 0.1)
    (60, 20, 5, 3)
    """
    return max(min(5, count), round(count * share))


def _single(expert: Expert) -> Candidate:
    checkpoint = expert.checkpoint
    return Candidate(
        expert.name, "expert", expert.name, checkpoint.digest(), partial(read_all, checkpoint)
    )


def _directory(lot: Lot, expert: Expert) -> Path:
    """Return an expert as a directory that training can start from; an adapter is merged into one."""
    path = getattr(expert.checkpoint, "path", None)
    if path is not None and (Path(path) / "config.json").is_file():
        return Path(path)
    folder: Path = lot.bench.workspace.entry("starts", expert.checkpoint.digest())
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_recipe(Pool(lot.bench.pool.base, (expert,)), "average", {}, folder)
    return folder


__all__ = ["Made", "Make", "as_it_is", "by_fitting", "by_merging", "by_tuning", "shared", "tuning_steps"]
