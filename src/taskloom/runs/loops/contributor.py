"""A contributor's side of ColD fusion: fetch the base, tune it on one's own data, hand the body in."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskloom.errors import CheckpointError, DataError, OutputError
from taskloom.progress import Progress, silent
from taskloom.runs.desk import open_desk
from taskloom.runs.loops.contribution import (
    MANIFEST,
    Manifest,
    check_name,
    folder_of,
    write_contribution,
)
from taskloom.runs.loops.encoders import EncoderShop
from taskloom.runs.loops.exchange import Exchange, FolderExchange, open_exchange
from taskloom.runs.loops.federation import Current, base_of, read_current
from taskloom.runs.loops.training import training_options
from taskloom.runs.loops.workshop import derived
from taskloom.runs.plan import Limits
from taskloom.store.atomic import atomic_directory
from taskloom.store.cache import cache_root
from taskloom.store.checkpoint import Checkpoint
from taskloom.store.digest import tensor_digest
from taskloom.store.header import strict_json
from taskloom.store.open import open_checkpoint
from taskloom.store.safetensors_dir import SafetensorsCheckpoint


@dataclass(frozen=True)
class Contributed:
    """What became of one's own round: handed in, or too late."""

    number: int
    contributor: str
    examples: int
    value: float
    handed_in: bool


def offer(
    exchange: str | Path | Exchange,
    contributor: str,
    weights: str | Path | Checkpoint,
    *,
    examples: int,
    number: int | None = None,
    replace: bool = False,
) -> Manifest:
    """Hand in weights that were tuned from the open round's base, by whatever means.

    Handing in the same again changes nothing.

    Parameters
    ----------
    exchange
        Folder, address, or an open exchange.
    contributor
        Name; one contribution per name and round.
    weights
        Directory of the tuned model (its heads stay with you), or its weights.
    examples
        How many examples they were tuned on.
    number
        The round whose base they were tuned from; the open one if None.
    replace
        Replace an earlier contribution to the round, for instance one that was refused.

    Raises
    ------
    OutputError
        The contributor has handed in other weights, or the exchange cannot be written.
    CheckpointError
        No round is open, or the weights have other tensors than the base.
    NumericalError, DataError
        NaN or infinity; a name that cannot be that of a folder.
    """
    place = open_exchange(exchange) if isinstance(exchange, str | Path) else exchange
    current = read_current(place)
    if number is not None and number != current.round:
        raise OutputError(
            f"{place.label}: round {number} is closed, and round {current.round} is open",
            hint="Tune from the base of the open round",
        )
    body = open_checkpoint(weights)
    _check_body(body, open_checkpoint(place.place(base_of(current.round))))
    try:
        return write_contribution(
            place,
            current.round,
            current.digest,
            contributor,
            body,
            examples=examples,
            replace=replace,
        )
    except OutputError:
        before = handed_in(place, current.round, contributor)
        if before is None or before.tensors != _digests(body):
            raise
        return before


def handed_in(place: Exchange, number: int, contributor: str) -> Manifest | None:
    """Return the manifest of what a contributor has handed in, None if there is none that is whole."""
    data = place.read(f"{folder_of(number, contributor)}/{MANIFEST}")
    try:
        return None if data is None else Manifest.model_validate(strict_json(data.decode()))
    except ValueError:
        return None


def contribute(
    exchange: str | Path,
    task: str,
    *,
    contributor: str | None = None,
    rounds: int = 1,
    steps: int = 50,
    train: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    patience: float = 3600.0,
    poll: float = 1.0,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[Contributed, ...]:
    """Tune the base of the open round on a task of one's own and hand it in; go on with the next.

    The head is fitted on the base's features and stays here, frozen; all weights of the body are tuned.
    What was tuned is found again in the cache, so that a contributor that was killed goes on.

    Parameters
    ----------
    exchange
        Folder, or address of a folder of an object store.
    task
        Registered task, or path of an annotation; its data stay here.
    contributor
        Name; that of the task if None.
    rounds
        How many to take part in.
    steps
        Optimiser steps of each.
    train
        Other options of training.
    limits
        Most examples of each split; the plan's defaults if None.
    patience
        Seconds to wait for a round to open.
    poll
        Seconds between looks.
    seed
        Of the subsample, the head and the training.

    Returns
    -------
    tuple of Contributed
        A round that was closed before the weights were ready is told as not handed in.

    Raises
    ------
    DataError
        No round opens within ``patience``; the contribution to the last stays.
    CheckpointError, OutputError, PlanError, NumericalError
        As `offer`; options or data that do not fit; a loss that is not finite.
    """
    options = training_options(train or {})
    place = open_exchange(exchange)
    found: list[Contributed] = []
    known: str | None = contributor
    after = -1
    while len(found) < rounds:
        current = _next_round(place, after, patience, poll, progress)
        after = current.round
        base = fetch_base(place, current)
        desk = open_desk(str(base), seed=seed, progress=progress)
        data = desk.load(task, limits or Limits())
        name = data.task.name
        known = check_name(known or name)
        folder = cache_root() / "cold" / f"{known}-{current.digest[:16]}"
        shop = EncoderShop(desk, {name: data}, options, folder, "own")
        own = derived(seed, "cold", current.round, name)
        tuned = shop.tune(base, {name: 1.0}, steps=steps, seed=own)
        handed = True
        try:
            offer(place, known, tuned.path, examples=len(data.train), number=current.round)
        except OutputError:
            handed = False
            if read_current(place).round == current.round:
                raise
        shop.clear()
        found.append(Contributed(current.round, known, len(data.train), tuned.value, handed))
        progress(f"rounds of {known}", len(found), rounds)
    return tuple(found)


def fetch_base(place: Exchange, current: Current) -> Path:
    """Return a local directory with the base of the open round.

    Raises
    ------
    CheckpointError
        Its weights are not those that ``current.json`` names.
    """
    if isinstance(place, FolderExchange):
        local = Path(place.place(base_of(current.round)))
    else:
        local = cache_root() / "cold" / f"base-{current.digest}"
        if not local.is_dir():
            with atomic_directory(local, overwrite=True) as folder:
                for name in place.names(base_of(current.round)):
                    place.get(f"{base_of(current.round)}/{name}", folder / name)
    digest = SafetensorsCheckpoint(local).digest()
    if digest != current.digest:
        raise CheckpointError(
            f"{local}: the weights of the base ({digest[:12]}) are not those that the exchange names "
            f"({current.digest[:12]})",
            hint="Ask whoever serves the exchange",
        )
    return local


def _next_round(
    place: Exchange, after: int, patience: float, poll: float, progress: Progress
) -> Current:
    begun = time.monotonic()
    while True:
        current = read_current(place)
        if current.round > after:
            return current
        waited = time.monotonic() - begun
        if waited >= patience:
            raise DataError(
                f"{place.label}: expected the round after {after} to open within {patience:g} s",
                hint="Wait for the server, with more patience",
            )
        progress(f"wait for round {after + 1}", waited, None)
        time.sleep(poll)


def _check_body(body: Checkpoint, base: Checkpoint) -> None:
    for name, info in base.tensors.items():
        found = body.tensors.get(name)
        if found is None or (found.shape, found.kind) != (info.shape, info.kind):
            told = "none" if found is None else f"{list(found.shape)} {found.kind}"
            raise CheckpointError(
                f"{body.label}: tensor {name!r}: expected {list(info.shape)} {info.kind}, found {told}",
                hint="Hand in the model that was tuned from the base of the round",
            )
    extra = sorted(set(body.tensors) - set(base.tensors))
    if extra:
        raise CheckpointError(
            f"{body.label}: there is a tensor {extra[0]!r}, which the base has not",
            hint="Hand in the body without heads",
        )


def _digests(body: Checkpoint) -> dict[str, str]:
    return {name: tensor_digest(body.read(name)) for name in body.tensors}
