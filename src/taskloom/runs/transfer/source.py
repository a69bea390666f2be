"""The expert of a source: trained as the suite trains its own, or found in the cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from taskloom.errors import OutputError
from taskloom.evaluation.load import load_task
from taskloom.evaluation.task import get_task
from taskloom.learn.options import TrainOptions
from taskloom.runs.candidates import read_all
from taskloom.runs.heads import head_for
from taskloom.runs.train import tune
from taskloom.runs.transfer.ledger import SourceFacts
from taskloom.runs.transfer.plan import BASE, TransferPlan
from taskloom.runs.transfer.target import Start, candidate_of, open_reader
from taskloom.store.cache import cache_root
from taskloom.store.checkpoint import Checkpoint
from taskloom.store.open import open_checkpoint
from taskloom.store.writer import write_model


@dataclass(frozen=True)
class Source:
    """A source's expert of one seed.

    Attributes
    ----------
    trained
        Where its training left it, with the head of its own task.
    directory
        What an encoder is loaded from; the same but for adapters.
    digest
        Of its weights.
    """

    name: str
    trained: Path
    directory: Path
    digest: str
    facts: SourceFacts


def source_expert(plan: TransferPlan, source: str, seed: int) -> Source:
    """Train a source's expert, or find it, by the same steps as the claims ledger's.

    Raises
    ------
    TaskloomError
        See `taskloom.evaluation.load` and `taskloom.learn.train`.
    """
    suite, reader = plan.suite, open_reader(plan)
    item = next(each for each in suite.tasks if get_task(each.task).name == source)
    limits = item.limits or suite.limits
    data = load_task(
        item.task,
        seed=seed,
        max_train=limits.train,
        max_validation=limits.validation,
        max_test=limits.test,
    )
    base = Start(BASE, reader.encoder.directory)
    features = reader.read([candidate_of(reader, base)], [data], "train")[BASE, source]
    head = head_for(reader.workspace, data.task, features, data.train.labels, seed=seed)
    kind = plan.sources.experts
    options = TrainOptions.parse({"seed": seed, "method": kind, **suite.experts[kind]})
    trained = tune(reader, head, data, options)
    below = base.checkpoint
    found = open_checkpoint(trained.directory, base=below)
    directory = trained.directory
    if not (directory / "config.json").is_file():
        directory = _whole(found, base.directory)
    facts = SourceFacts(
        train=len(data.train),
        classes=len(data.task.label_names),
        before=trained.before.accuracy,
        after=trained.validation.accuracy,
        moved=_moved(found, below),
        seconds=round(trained.seconds, 3),
    )
    return Source(source, trained.directory, directory, open_checkpoint(directory).digest(), facts)


def _whole(adapted: Checkpoint, template: Path) -> Path:
    """Write an adapter on its base as a model directory, once."""
    target = cache_root() / "transfer" / "whole" / adapted.digest()[:32]
    if not (target / "config.json").is_file():
        try:
            write_model(
                target, infos=adapted.tensors, tensors=read_all(adapted).items(), template=template
            )
        except OutputError:  # another process was quicker
            if not (target / "config.json").is_file():
                raise
    return target


def _moved(expert: Checkpoint, base: Checkpoint) -> float:
    """Return the norm of the change of all weights by the norm of the base's."""
    change = whole = 0.0
    for name, info in base.tensors.items():
        if not info.dtype.is_floating_point:
            continue
        before, after = (each.read(name).double() for each in (base, expert))
        change += float(((after - before) ** 2).sum())
        whole += float((before**2).sum())
    return (change / whole) ** 0.5 if whole else 0.0
