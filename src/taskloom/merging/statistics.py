"""Statistics beside the weights: which file serves which expert, held against what the chain needs.

Only headers are read here. That a statistic was collected on the very weights that are merged is
checked by `check_origin`, which reads weights (their digests are kept in the cache).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taskloom.algebra import Chain, Need
from taskloom.errors import CheckpointError, PlanError, nearest
from taskloom.store.checkpoint import Checkpoint
from taskloom.store.pool import Pool
from taskloom.store.statistic import Statistic, open_statistic

#: a statistic, or the path of one
Given = Statistic | str | os.PathLike[str]
#: per expert, in pool order or by name: one, or several of different kinds
Statistics = Sequence[Given | Sequence[Given]] | Mapping[str, Given | Sequence[Given]]


@dataclass(frozen=True, eq=False)
class Beside:
    """One statistic of every expert of an output, in the order of the experts."""

    need: Need
    statistics: tuple[Statistic, ...]

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Where the tensors are."""
        return tuple(each.checkpoint for each in self.statistics)

    @property
    def tables(self) -> tuple[Mapping[str, str], ...]:
        """What the headers say."""
        return tuple(each.table for each in self.statistics)

    def nbytes(self, name: str) -> int:
        """Bytes of a weight's statistics over all experts."""
        if self.need.how == "table":
            return 0
        return sum(checkpoint.tensors[name].nbytes for checkpoint in self.checkpoints)


def gather(pool: Pool, statistics: Statistics | None) -> dict[str, list[Statistic]]:
    """Open statistics and give each expert its own.

    Raises
    ------
    PlanError
        A name that no expert has, a number that is not the pool's, one kind twice.
    CheckpointError
        A file that is no statistic.
    """
    given = {} if statistics is None else statistics
    if not isinstance(given, Mapping):
        single = not isinstance(given, Sequence) or isinstance(given, str)
        if single or len(given) != len(pool.names):
            found = "1" if single else str(len(given))
            raise PlanError(
                f"statistics were given for {found} experts, and the pool has {len(pool.names)} "
                f"({', '.join(pool.names)})",
                hint="Give one entry for each expert in pool order, or a mapping by name",
            )
        given = dict(zip(pool.names, given, strict=True))
    found_by: dict[str, list[Statistic]] = {}
    for name, sources in given.items():
        if name not in pool.names:
            guess = nearest(name, pool.names)
            did = f"did you mean {guess!r}? " if guess else ""
            raise PlanError(
                f"a statistic names the expert {name!r}: {did}The pool holds: {', '.join(pool.names)}"
            )
        several = isinstance(sources, Sequence) and not isinstance(sources, str)
        opened = [open_statistic(each) for each in (sources if several else [sources])]  # type: ignore[arg-type, union-attr]
        kinds = [each.kind for each in opened]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise PlanError(
                    f"the expert {name!r} has {kinds.count(kind)} statistics {kind!r}", hint="Give one"
                )
        found_by[name] = opened
    return found_by


def bind(pool: Pool, chain: Chain, statistics: Statistics | None) -> tuple[Beside, ...]:
    """Return the statistics that a chain needs, checked against the pool by their headers.

    Raises
    ------
    PlanError
        One is missing (the message says how to collect it), or one is given that nothing reads.
    CheckpointError
        One speaks of tensors that the pool does not have, has them in other shapes, lacks what the
        other experts' have, or lacks what the chain cannot do without.
    """
    found = gather(pool, statistics)
    wanted = [need.kind for need in chain.needs]
    for name, members in found.items():
        for each in members:
            if each.kind not in wanted:
                reads = f"reads {', '.join(wanted)}" if wanted else "reads none"
                raise PlanError(
                    f"the statistic {each.kind!r} of the expert {name!r} ({each.label}) was given, but "
                    f"{chain.called} {reads}",
                    hint="Leave it out, or take the method it belongs to",
                )
    return tuple(_one(pool, chain, need, found) for need in chain.needs)


def _one(pool: Pool, chain: Chain, need: Need, found: Mapping[str, list[Statistic]]) -> Beside:
    members = []
    for name in pool.names:
        own = [each for each in found.get(name, []) if each.kind == need.kind]
        if not own:
            raise PlanError(
                f"{chain.called} needs the statistic {need.kind!r} of every expert, and {name!r} has "
                "none",
                hint=f"Collect it with: taskloom collect {need.kind} --model {name} --task TASK -o FILE "
                f"and give it as --statistic {name}=FILE",
            )
        members.append(own[0])
    if need.how != "table":
        _check_tensors(pool, chain, need, members)
    return Beside(need, tuple(members))


def _check_tensors(pool: Pool, chain: Chain, need: Need, members: list[Statistic]) -> None:
    first = members[0]
    for expert, each in zip(pool.names, members, strict=True):
        who = f"statistic {need.kind!r} of the expert {expert!r} ({each.label})"
        for name, info in each.checkpoint.tensors.items():
            weight = pool.tensors.get(name)
            if weight is None:
                guess = nearest(name, pool.tensors)
                near = f"; the nearest is {guess!r}" if guess else ""
                raise CheckpointError(
                    f"{who}: it speaks of the tensor {name!r}, which the models do not have{near}",
                    hint="Collect it on this expert",
                )
            if need.how == "slice" and info.shape != weight.shape:
                raise CheckpointError(
                    f"{who}: tensor {name!r}: expected shape {list(weight.shape)}, found "
                    f"{list(info.shape)}",
                    hint="Collect it on this expert",
                )
        differ = sorted(set(each.checkpoint.tensors) ^ set(first.checkpoint.tensors))
        if differ:
            owner = "lacks" if differ[0] in first.checkpoint.tensors else "has, unlike the first's,"
            raise CheckpointError(
                f"{who}: it {owner} the tensor {differ[0]!r} ({len(differ)} differ from "
                f"{pool.names[0]!r})",
                hint="Collect all statistics with the same options",
            )
        lacking = [n for n in pool.parameters() if n not in each.checkpoint.tensors]
        if lacking and chain.otherwise is None:
            raise CheckpointError(
                f"{who}: expected the tensor {lacking[0]!r}, found none ({len(lacking)} are missing)",
                hint="Collect it on this expert",
            )


def check_origin(pool: Pool, beside: Sequence[Beside]) -> None:
    """Refuse statistics whose header names other weights than the expert's.

    Statistics without ``model_digest`` (made in memory, by hand) are taken at their word.

    Raises
    ------
    CheckpointError
        With both digests.
    """
    for each in beside:
        for expert, statistic in zip(pool.experts, each.statistics, strict=True):
            said = statistic.table.get("model_digest")
            if said is None:
                continue
            found = expert.checkpoint.digest()
            if found != said:
                raise CheckpointError(
                    f"statistic {statistic.kind!r} of the expert {expert.name!r} ({statistic.label}) "
                    f"was collected on the weights {said[:12]}, and {expert.checkpoint.label} has "
                    f"{found[:12]}",
                    hint="Collect it on this expert, or give it to the expert it belongs to",
                )


def labels_of(pool: Pool, beside: Sequence[Beside]) -> dict[str, list[str]]:
    """Return where each expert's statistics are, for the record of a merge."""
    return {
        name: [each.statistics[number].label for each in beside]
        for number, name in enumerate(pool.names)
    }
