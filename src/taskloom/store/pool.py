"""The pool: ordered, checked experts of one base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from taskloom.errors import CheckpointError, nearest
from taskloom.store.checkpoint import Checkpoint, TensorInfo
from taskloom.store.heads import NAMES as HEADS
from taskloom.store.open import Source, open_checkpoint, source_name
from taskloom.store.tied import as_tied, owner_of
from taskloom.store.tokenizer import VOCABULARY

#: takes the base and the experts as they were opened, returns them as they are pooled
Change = Callable[
    [Checkpoint | None, Sequence[Checkpoint]], tuple[Checkpoint | None, Sequence[Checkpoint]]
]


@dataclass(frozen=True)
class Expert:
    """A model that has learned one task, and where it comes from.

    Attributes
    ----------
    name
        Unique within a pool.
    checkpoint
        Its weights.
    task
        The task it was trained on, if known.
    provenance
        What else is known of its making; plain data.
    """

    name: str
    checkpoint: Checkpoint
    task: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pool:
    """Experts of one base, in order, with equal names, shapes and kinds of dtype.

    Making one checks it; an existing pool is consistent.

    Attributes
    ----------
    base
        The weights all experts started from; None if unknown, then the first expert says which
        tensors there are.
    experts
        At least one.

    Raises
    ------
    CheckpointError
        No experts, a name used twice, a tensor that is missing or extra, of another shape or
        another kind of dtype. The message names expert, tensor, expected and found.
    """

    base: Checkpoint | None
    experts: tuple[Expert, ...]

    def __post_init__(self) -> None:
        _check_names(self.experts)
        yardstick, label = self.yardstick, self._yardstick_label
        for name, info in yardstick.tensors.items():
            kind_class(info.kind, where=f"{label}: tensor {name!r}")
        for expert in self.experts:
            if expert.checkpoint is not yardstick:
                _check_fits(expert, yardstick.tensors, label)

    def __len__(self) -> int:
        return len(self.experts)

    def __iter__(self) -> Iterator[Expert]:
        return iter(self.experts)

    @property
    def names(self) -> tuple[str, ...]:
        """The experts' names, in order."""
        return tuple(expert.name for expert in self.experts)

    @property
    def yardstick(self) -> Checkpoint:
        """The checkpoint whose tensors all others must have: the base, or the first expert."""
        return self.base if self.base is not None else self.experts[0].checkpoint

    @property
    def _yardstick_label(self) -> str:
        if self.base is not None:
            return f"base {self.base.label}"
        return f"expert {self.experts[0].name!r}"

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Names, shapes and dtypes of the yardstick, in its order."""
        return self.yardstick.tensors

    def parameters(self) -> tuple[str, ...]:
        """Names of the floating-point tensors, which are merged, in the base's order."""
        return tuple(n for n, info in self.tensors.items() if info.is_float)

    def passthrough(self) -> tuple[str, ...]:
        """Names of the integer and boolean tensors, which are taken over from the base."""
        return tuple(n for n, info in self.tensors.items() if not info.is_float)

    def expert(self, name: str) -> Expert:
        """Return the expert of that name.

        Raises
        ------
        CheckpointError
            There is none; the message offers the nearest name.
        """
        for expert in self.experts:
            if expert.name == name:
                return expert
        guess = nearest(name, self.names)
        raise CheckpointError(
            f"there is no expert {name!r} in the pool",
            hint=f"Did you mean {guess!r}?" if guess else f"There are: {', '.join(self.names)}",
        )


def open_pool(
    base: Source | None,
    experts: Sequence[Source | Expert],
    *,
    names: Sequence[str] | None = None,
    allow_pickle: bool = False,
    change: Change | None = None,
) -> Pool:
    """Open a base and its experts and check that they belong together.

    An expert that stores twice what the base ties, with equal values, is taken as tied.

    Parameters
    ----------
    base
        What all experts started from (anything `open_checkpoint` opens), or None.
    experts
        Directories, files, hub ids, adapters, state dicts, modules, or `Expert` objects.
    names
        One name per expert. By default an `Expert` keeps its own, a path or hub id gives its last
        part, and weights in memory are called ``expert-1``, ``expert-2``, ...
    allow_pickle
        Also open pickled weights.
    change
        Called with the opened base and experts before they are checked; returns what is pooled.

    Raises
    ------
    CheckpointError
        Something cannot be opened or does not belong; see `Pool`.
    SourceUnreachable
        A hub id that is neither cached nor reachable.
    """
    if isinstance(experts, str | Mapping):
        raise CheckpointError(
            f"expected a list of experts, found one {type(experts).__name__}",
            hint="Put the experts into a list",
        )
    if names is not None and len(names) != len(experts):
        raise CheckpointError(
            f"expected one name per expert ({len(experts)}), found {len(names)}",
            hint="Give as many names as experts",
        )
    opened = None if base is None else open_checkpoint(base, allow_pickle=allow_pickle)
    chosen = list(names) if names is not None else _default_names(experts)
    members = []
    for name, source in zip(chosen, experts, strict=True):
        if isinstance(source, Expert):
            members.append(Expert(name, source.checkpoint, source.task, source.provenance))
        else:
            checkpoint = open_checkpoint(source, base=opened, allow_pickle=allow_pickle)
            if opened is not None:
                who = f"expert {name!r} ({checkpoint.label})"
                whose = f"the base {opened.label}"
                checkpoint = as_tied(checkpoint, opened, who=who, whose=whose)
            members.append(Expert(name, checkpoint))
    if change is not None and members:
        opened, changed = change(opened, [expert.checkpoint for expert in members])
        members = [replace(e, checkpoint=c) for e, c in zip(members, changed, strict=True)]
    return Pool(opened, tuple(members))


def kind_class(kind: str, *, where: str) -> str:
    """Return ``float``, ``integer`` or ``boolean`` for the name of a dtype, as `TensorInfo.kind` has it.

    Raises
    ------
    CheckpointError
        A complex dtype, which no method merges.

    >>> kind_class("bfloat16", where="w"), kind_class("int64", where="w")
    ('float', 'integer')
    """
    if kind.startswith("complex"):
        raise CheckpointError(
            f"{where}: expected floating-point, integer or boolean numbers, found torch.{kind}",
            hint="Store real and imaginary part as two tensors",
        )
    if kind.startswith(("float", "bfloat")):
        return "float"
    return "boolean" if kind == "bool" else "integer"


def _default_names(experts: Sequence[Source | Expert]) -> list[str]:
    """Last parts of paths; where two agree, as much of the path as was given."""
    short = [
        source.name if isinstance(source, Expert) else source_name(source) or f"expert-{number}"
        for number, source in enumerate(experts, start=1)
    ]
    return [
        str(source) if short.count(name) > 1 and source_name(source) else name
        for name, source in zip(short, experts, strict=True)
    ]


def _check_names(experts: Sequence[Expert]) -> None:
    if not experts:
        raise CheckpointError(
            "the pool is empty: expected at least one expert", hint="Name one or more experts"
        )
    seen: set[str] = set()
    for expert in experts:
        if not expert.name:
            raise CheckpointError("an expert has an empty name", hint="Give every expert a name")
        if expert.name in seen:
            raise CheckpointError(
                f"two experts are called {expert.name!r}", hint="Give each expert its own name"
            )
        seen.add(expert.name)


def _check_fits(expert: Expert, expected: Mapping[str, TensorInfo], label: str) -> None:
    found = expert.checkpoint.tensors
    if list(found) != list(expected):
        _check_keys(expert, expected, label)
    for name, info in expected.items():
        other = found[name]
        who = f"expert {expert.name!r} ({expert.checkpoint.label}): tensor {name!r}"
        if other.shape != info.shape:
            raise CheckpointError(
                f"{who}: expected shape {list(info.shape)} as in {label}, found {list(other.shape)}",
                hint=_way_out(name, info.shape, other.shape),
            )
        if other.kind != info.kind:
            wanted, got = (kind_class(each.kind, where=who) for each in (info, other))
            if wanted != got:
                raise CheckpointError(
                    f"{who}: expected a dtype of the kind {wanted} as in {label} ({info.dtype}), "
                    f"found {other.dtype}",
                    hint="Convert the expert to the base's dtype",
                )


def _way_out(name: str, wanted: tuple[int, ...], found: tuple[int, ...]) -> str:
    """Say what to do about two shapes."""
    if name.split(".", 1)[0] in HEADS:
        return "Keep the heads of tasks beside the merged model with --heads keep"
    if wanted[1:] == found[1:] and VOCABULARY.fullmatch(name):
        return "Place the rows by token with --tokenizer union"
    return "Only models of one architecture and vocabulary can be pooled"


def _untie(name: str, expected: Mapping[str, TensorInfo], found: Mapping[str, TensorInfo]) -> str:
    """Say what to do about a missing tensor, which may be tied to another."""
    info = expected[name]
    if name.split(".", 1)[0] in HEADS:
        return "Keep the heads of tasks beside the merged model with --heads keep"
    owner = owner_of(name, info, found)
    if owner:
        return (
            f"If the expert ties it to {owner!r}, save it untied: with {name!r} as a copy, and "
            "tie_word_embeddings false"
        )
    return "Pool only experts of this base, saved by the same class of model"


def _check_keys(expert: Expert, expected: Mapping[str, TensorInfo], label: str) -> None:
    found = expert.checkpoint.tensors
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    who = f"expert {expert.name!r} ({expert.checkpoint.label})"
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        guess = nearest(missing[0], extra)
        near = f"; the nearest name it has is {guess!r}" if guess else ""
        raise CheckpointError(
            f"{who}: tensor {missing[0]!r}{more}: expected as in {label}, found none{near}",
            hint=_untie(missing[0], expected, found),
        )
    if extra:
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise CheckpointError(
            f"{who}: tensor {extra[0]!r}{more}: found, but expected none as in {label}",
            hint="Pool only experts of this base, saved by the same class of model; heads of tasks "
            "are kept beside the merged model with --heads keep",
        )
