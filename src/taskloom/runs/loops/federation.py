"""The server's side of ColD fusion: open a round, wait, judge what came, average it into the next base.

A round closes when ``quorum`` contributions are accepted, or at the deadline with what is accepted by
then. All that are accepted at that look are fused, in the order of their names: the same set gives the
same bytes whatever order it arrived in. ``current.json`` is written last and names the open round, so
that a server that was killed does a round over whose end it had not announced, and no other.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from taskloom.errors import CheckpointError, DataError, PlanError
from taskloom.merging.api import merge_files
from taskloom.progress import Progress, silent
from taskloom.runs.loops.contribution import MANIFEST, Verdict, folder_of, is_name, judge, told
from taskloom.runs.loops.exchange import Exchange, open_exchange
from taskloom.store.checkpoint import Checkpoint
from taskloom.store.hub import resolve_model
from taskloom.store.open import open_checkpoint
from taskloom.store.safetensors_dir import SafetensorsCheckpoint
from taskloom.store.scratch import scratch
from taskloom.store.writer import write_model

CURRENT = "current.json"
Weigh = Literal["equal", "examples"]


class Current(BaseModel):
    """Contents of ``current.json``: the open round and the digest of its base's weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    round: int = Field(ge=0)
    digest: str


@dataclass(frozen=True)
class Fused:
    """A round that was closed.

    Attributes
    ----------
    number
        Of the round.
    closed_by
        The quorum or the deadline.
    verdicts
        On everything that lay there, by name; those of older rounds that came late too.
    weights
        Share of every accepted contribution.
    digest, path
        Of the next base, and where it is.
    seconds
        From the first look to the next base.
    """

    number: int
    closed_by: Literal["quorum", "deadline"]
    verdicts: tuple[Verdict, ...]
    weights: Mapping[str, float]
    digest: str
    path: str
    seconds: float

    @property
    def accepted(self) -> tuple[str, ...]:
        """Names of those that were fused, in order."""
        return tuple(self.weights)

    def plain(self) -> dict[str, Any]:
        """Return the record of the round."""
        return {
            "format": 1,
            "round": self.number,
            "closed_by": self.closed_by,
            "weights": dict(self.weights),
            "contributions": [each.plain() for each in self.verdicts],
            "next": self.digest,
            "seconds": self.seconds,
        }


def base_of(number: int) -> str:
    """Return where the base of a round is.

    >>> base_of(3)
    'rounds/0003'
    """
    return f"rounds/{number:04d}"


def read_current(exchange: Exchange) -> Current:
    """Return the open round.

    Raises
    ------
    CheckpointError
        There is none, or ``current.json`` is malformed.
    """
    data = exchange.read(CURRENT)
    if data is None:
        raise CheckpointError(
            f"{exchange.label}: there is no {CURRENT}, so no round is open",
            hint="Open the exchange with a base first (taskloom cold open)",
        )
    try:
        return Current.model_validate_json(data)
    except ValidationError as error:
        raise CheckpointError(
            f"{exchange.label}: {CURRENT} is malformed: {error.errors()[0]['msg'].lower()}",
            hint="Restore it, or open another exchange",
        ) from None


def open_federation(base: str, exchange: str | Path | Exchange) -> Current:
    """Put a base into an exchange as that of round 0.

    Parameters
    ----------
    base
        Directory or hub id; weights, configuration and tokenizer are copied, heads are not.
    exchange
        Folder, address of a folder of an object store, or an open exchange.

    Returns
    -------
    Current
        The open round: that which is open already if it began with the same base.

    Raises
    ------
    PlanError
        The exchange began with another base.
    CheckpointError, OutputError
        The base cannot be read, or the exchange cannot be written.
    """
    place = open_exchange(exchange) if isinstance(exchange, str | Path) else exchange
    directory = resolve_model(base)
    weights = SafetensorsCheckpoint(directory)
    with place.held():
        if place.read(CURRENT) is not None:
            begun = read_current(place)
            if _digest(place, 0) != weights.digest():
                raise PlanError(
                    f"{place.label}: the exchange began with another base than {base}",
                    hint="Open another folder",
                )
            return begun
        with scratch() as folder:
            write_model(
                folder / "base",
                infos=weights.tensors,
                tensors=((name, weights.read(name)) for name in weights.tensors),
                template=directory,
            )
            place.put(base_of(0), folder / "base", "config.json", replace=True)
        current = Current(round=0, digest=weights.digest())
        place.write(CURRENT, _json(current.model_dump()))
    return current


def fuse(
    exchange: str | Path,
    *,
    rounds: int = 1,
    quorum: int = 2,
    deadline: float | None = None,
    least: int = 1,
    weigh: Weigh = "equal",
    poll: float = 1.0,
    progress: Progress = silent,
) -> tuple[Fused, ...]:
    """Serve an exchange: wait for contributions, and average them into the base of the next round.

    Parameters
    ----------
    exchange
        Folder, or address of a folder of an object store, that `open_federation` has opened.
    rounds
        How many to close.
    quorum
        Contributions that close a round at once; what else is accepted at that look is fused too.
    deadline
        Seconds that the server waits in a round; None waits for the quorum. 0 takes what is there.
    least
        Contributions needed at the deadline.
    weigh
        ``"equal"``: every contribution counts the same, as in the paper; ``"examples"``: by the number
        of examples its manifest names (federated averaging, McMahan et al. 2017).
    poll
        Seconds between looks.
    progress
        Told how many of the quorum are there.

    Returns
    -------
    tuple of Fused
        What became of every contribution, round by round.

    Raises
    ------
    DataError
        Fewer than ``least`` contributions at the deadline; the round stays open.
    PlanError
        Numbers that make no sense.
    CheckpointError, OutputError
        No round is open, another server is at work, or the next base cannot be written.
    """
    if rounds < 1 or quorum < 1 or not 1 <= least <= quorum or poll <= 0:
        raise PlanError(
            f"fuse: expected rounds >= 1, 1 <= least <= quorum and poll > 0, found rounds {rounds}, "
            f"least {least}, quorum {quorum}, poll {poll}"
        )
    if weigh not in ("equal", "examples"):
        raise PlanError(f"fuse: contributions are weighed equal or examples, found {weigh!r}")
    place = open_exchange(exchange)
    found = []
    with place.held():
        for _ in range(rounds):
            current = read_current(place)
            base = open_checkpoint(place.place(base_of(current.round)))
            if base.digest() != current.digest:
                raise CheckpointError(
                    f"{base.label}: the weights are not those that {CURRENT} names",
                    hint="Restore the base of the round",
                )
            with scratch() as folder:
                begun = time.monotonic()
                verdicts, closed_by = _wait(
                    place, current, base, folder, quorum, deadline, least, poll, progress
                )
                found.append(_close(place, current, verdicts, closed_by, weigh, begun, progress))
    return tuple(found)


def _wait(
    place: Exchange,
    current: Current,
    base: Checkpoint,
    folder: Path,
    quorum: int,
    deadline: float | None,
    least: int,
    poll: float,
    progress: Progress,
) -> tuple[dict[str, Verdict], Literal["quorum", "deadline"]]:
    """Look until the round can be closed."""
    begun = time.monotonic()
    looker = Looker(place, current, base, folder)
    while True:
        over = deadline is not None and time.monotonic() - begun >= deadline
        verdicts = looker.look()
        count = sum(each.decision == "accepted" for each in verdicts.values())
        progress(f"contributions to round {current.round}", count, quorum)
        if count >= quorum:
            return verdicts, "quorum"
        if over:
            if count >= least:
                return verdicts, "deadline"
            rest = told(verdicts)
            raise DataError(
                f"{place.label}: expected {least} contributions to round {current.round} within "
                f"{deadline:g} s, found {count}{f' ({rest})' if rest else ''}",
                hint="The round stays open: serve it again, or set a later deadline",
            )
        time.sleep(poll)


class Looker:
    """Looks at what was contributed; judges each manifest once.

    Parameters
    ----------
    place, current, base
        The exchange, its open round and the base of that.
    folder
        Copies of accepted weights are kept in it.
    """

    def __init__(self, place: Exchange, current: Current, base: Checkpoint, folder: Path) -> None:
        self._place, self._current, self._base, self._folder = place, current, base, folder
        self._known: dict[str, tuple[bytes | None, Verdict]] = {}

    def look(self) -> dict[str, Verdict]:
        """Return the verdict on everything that lies there, by name, sorted."""
        found: dict[str, Verdict] = {}
        where = folder_of(self._current.round)
        for name in self._place.names(where):
            known = self._known.get(name)
            mark = self._mark(f"{where}/{name}/{MANIFEST}") if is_name(name) else b""
            if known is None or known[0] != mark or known[1].decision == "unfinished":
                if is_name(name):
                    shutil.rmtree(self._folder / name, ignore_errors=True)
                verdict = judge(
                    self._place,
                    name,
                    number=self._current.round,
                    base=self._current.digest,
                    infos=self._base.tensors,
                    into=self._folder,
                )
                self._known[name] = (mark, verdict)
            found[name] = self._known[name][1]
        return found | self._late()

    def _mark(self, name: str) -> bytes | None:
        try:
            return self._place.read(name) if self._place.size(name) else None
        except (CheckpointError, OSError):
            return None

    def _late(self) -> dict[str, Verdict]:
        """Tell what came to rounds that were closed without it, and what belongs to no round."""
        found: dict[str, Verdict] = {}
        for folder in self._place.names("contributions"):
            if not (folder.isdigit() and len(folder) == 4):
                found[f"contributions/{folder}"] = Verdict(folder, "refused", "it is of no round")
                continue
            number = int(folder)
            if number > self._current.round:
                for name in self._place.names(f"contributions/{folder}"):
                    found[f"{folder}/{name}"] = Verdict(
                        name, "refused", f"round {number} is not open yet"
                    )
            if number < self._current.round:
                seen = self._seen(number)
                for name in self._place.names(f"contributions/{folder}"):
                    if name not in seen:
                        found[f"{folder}/{name}"] = Verdict(
                            name, "late", f"round {number} was closed without it"
                        )
        return found

    def _seen(self, number: int) -> set[str]:
        """Return whom the record of a round names, and what later records have named late."""
        seen: set[str] = set()
        for each in range(number, self._current.round):
            try:
                record = json.loads(self._place.read(f"{base_of(each)}.json") or b"{}")
                for entry in record["contributions"]:
                    if each == number or entry.get("reason", "").startswith(f"round {number} "):
                        seen.add(entry["contributor"])
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
        return seen


def _close(
    place: Exchange,
    current: Current,
    verdicts: Mapping[str, Verdict],
    closed_by: Literal["quorum", "deadline"],
    weigh: Weigh,
    begun: float,
    progress: Progress,
) -> Fused:
    """Average what was accepted, then announce the next round."""
    accepted = {
        each.contributor: each
        for _, each in sorted(verdicts.items())
        if each.decision == "accepted" and each.local is not None
    }
    counts = [each.examples if weigh == "examples" else 1 for each in accepted.values()]
    target = place.place(base_of(current.round + 1))
    report = merge_files(
        place.place(base_of(current.round)),
        {name: SafetensorsCheckpoint(each.local) for name, each in accepted.items() if each.local},
        "average",
        target,
        overwrite=True,
        discard=True,
        progress=progress,
        weights=[float(count) for count in counts],
    )
    fused = Fused(
        number=current.round,
        closed_by=closed_by,
        verdicts=tuple(verdicts.values()),
        weights={name: count / sum(counts) for name, count in zip(accepted, counts, strict=True)},
        digest=report.digest,
        path=target,
        seconds=round(time.monotonic() - begun, 3),
    )
    place.write(f"{base_of(current.round)}.json", _json(fused.plain()))
    following = Current(round=current.round + 1, digest=_digest(place, current.round + 1))
    place.write(CURRENT, _json(following.model_dump()))
    return fused


def _digest(place: Exchange, number: int) -> str:
    return open_checkpoint(place.place(base_of(number))).digest()


def _json(table: Any) -> bytes:
    return (json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
