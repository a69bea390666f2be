"""What is merged with what: one entry for every tensor of the output.

A `Program` is all that the engine knows of a merge. Pools make one with `program_of`; configurations
that stack layers or give every layer numbers of its own build theirs tensor by tensor.

- An `Output` names its tensor, its shape and dtype, the chain that makes it, and a `Ref` for the base
  and for every expert. ``chain=None`` copies the single expert as it is (no base, dtypes equal or
  both floating point).
- Outputs that hold the *same* chain object (identity, not equality) are one group: a measure of the
  whole model, such as the threshold of TIES, is taken over the tensors of its group.
- What a `Ref` points to may be any `Checkpoint`, also one that makes its tensors on the way, such as
  an adapter on its base or an embedding whose rows are placed by token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from taskloom.algebra import Chain
from taskloom.algebra.combine import check_weights
from taskloom.algebra.named import index_of
from taskloom.errors import CheckpointError, PlanError
from taskloom.lazy import torch
from taskloom.merging.statistics import Beside, Statistics, bind
from taskloom.store.checkpoint import Checkpoint, TensorInfo
from taskloom.store.pool import Pool


@dataclass(frozen=True, eq=False)
class Ref:
    """A tensor of a checkpoint."""

    checkpoint: Checkpoint
    name: str

    @property
    def info(self) -> TensorInfo:
        """Shape and dtype, as stored."""
        return self.checkpoint.tensors[self.name]


@dataclass(frozen=True, eq=False)
class Output:
    """One tensor of the output and how it comes about.

    Attributes
    ----------
    name
        Its name in the output; random numbers are keyed by it.
    info
        Shape and dtype it is written with.
    chain
        What makes it from the experts (and the base, if the chain works on task vectors); None copies
        the only expert.
    base
        Needed if ``chain.space`` is ``"delta"``; not read otherwise.
    experts
        In order, all of the output's shape.
    names
        Names of the experts, for per-expert options, random numbers and messages.
    beside
        Statistics of the experts that the chain reads.
    """

    name: str
    info: TensorInfo
    chain: Chain | None
    base: Ref | None
    experts: tuple[Ref, ...]
    names: tuple[str, ...]
    beside: tuple[Beside, ...] = ()

    @property
    def sources(self) -> tuple[Ref, ...]:
        """What is read: the experts, then the base if the chain works on task vectors."""
        if self.chain is not None and self.chain.space == "delta" and self.base is not None:
            return (*self.experts, self.base)
        return self.experts

    @property
    def nbytes_read(self) -> int:
        """Bytes of one read of everything, the statistics of the experts included."""
        own = sum(ref.info.nbytes for ref in self.sources)
        return own + sum(each.nbytes(self.experts[0].name) for each in self.beside)


@dataclass(frozen=True, eq=False)
class Program:
    """Every tensor of the output, in the order in which it is written.

    Attributes
    ----------
    outputs
        One per tensor, names unique.
    aliases
        Further names of tied tensors -> the output they are; for results in memory.
    """

    outputs: tuple[Output, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for output in self.outputs:
            if output.name in seen:
                raise PlanError(f"two outputs are called {output.name!r}", hint="Name each once")
            seen.add(output.name)
            check_output(output)

    @property
    def infos(self) -> dict[str, TensorInfo]:
        """Shape and dtype of every output, in order."""
        return {output.name: output.info for output in self.outputs}

    @property
    def groups(self) -> list[tuple[Chain | None, list[Output]]]:
        """Outputs by chain object, groups in the order of their first output."""
        found: dict[int, tuple[Chain | None, list[Output]]] = {}
        for output in self.outputs:
            found.setdefault(id(output.chain), (output.chain, []))[1].append(output)
        return list(found.values())

    @property
    def beside(self) -> tuple[Beside, ...]:
        """Every statistic that is read."""
        return tuple({id(b): b for output in self.outputs for b in output.beside}.values())

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Every checkpoint that is read, once, in the order of first use."""
        return list({id(each): each for each in self._checkpoints()}.values())

    def _checkpoints(self) -> Iterator[Checkpoint]:
        for output in self.outputs:
            yield from (ref.checkpoint for ref in output.sources)
            for each in output.beside:
                yield from each.checkpoints


def program_of(
    pool: Pool,
    chain: Chain,
    dtype: torch.dtype | str | None = None,
    statistics: Statistics | None = None,
) -> Program:
    """Return the plain program: one chain over every floating-point tensor of a pool.

    Integer and boolean tensors are copied from the base (the first expert if there is none).

    Parameters
    ----------
    pool
        Checked experts.
    chain
        The composition, such as ``recipe.chain``.
    dtype
        Of merged tensors; each keeps the base's if None.
    statistics
        Of the experts, if the chain needs any.

    Raises
    ------
    PlanError
        ``dtype`` is not a floating point one, the chain does not fit the pool, or a statistic is
        missing.
    CheckpointError
        A statistic that does not fit the pool.
    """
    if dtype is not None and not TensorInfo((), dtype).is_float:
        raise PlanError(
            f"merged tensors cannot be stored as {dtype}, which is not a floating point dtype",
            hint="Take float32, bfloat16 or float16",
        )
    if chain.space == "factors":
        raise PlanError(
            f"{chain.called} works on the factors of adapters and has no rule for full tensors",
            hint="Merge adapters into an adapter (--as-adapter), or take another method",
        )
    check_chain(chain, pool.names, has_base=pool.base is not None)
    beside = bind(pool, chain, statistics)
    outputs = []
    for name, info in pool.tensors.items():
        if not info.is_float:
            outputs.append(Output(name, info, None, None, (Ref(pool.yardstick, name),), ("base",)))
            continue
        wanted = info if dtype is None else TensorInfo(info.shape, dtype)
        base = None if pool.base is None else Ref(pool.base, name)
        experts = tuple(Ref(expert.checkpoint, name) for expert in pool.experts)
        made_by = chain.for_tensor(name, info.shape)
        if made_by is not chain:
            outputs.append(Output(name, wanted, made_by, base, experts, pool.names))
        elif all(each.need.how == "table" or name in each.checkpoints[0].tensors for each in beside):
            outputs.append(Output(name, wanted, chain, base, experts, pool.names, beside))
        else:
            outputs.append(Output(name, wanted, chain.otherwise, base, experts, pool.names))
    return Program(tuple(outputs), getattr(pool.yardstick, "aliases", {}))


def check_chain(chain: Chain, names: tuple[str, ...], *, has_base: bool) -> None:
    """Hold a chain against the experts it is to merge.

    Raises
    ------
    PlanError
        Too few or too many experts, weights that do not fit them, an expert that is asked for by name
        and is not there, or a chain on task vectors without a base.
    """
    low, high = chain.experts
    count = len(names)
    if count < low or (high is not None and count > high):
        wanted = f"exactly {low}" if low == high else f"{low} to {high}" if high else f"at least {low}"
        raise PlanError(
            f"{chain.called} is defined for {wanted} expert{'' if wanted.endswith(' 1') else 's'}, but "
            f"the pool has {count} ({', '.join(names)})",
            hint="Change the pool or take another method",
        )
    if chain.space == "delta" and not has_base:
        raise PlanError(
            f"{chain.called} works on task vectors and needs the base the experts were tuned from",
            hint="Give the base, or take a method that needs none, such as average",
        )
    for step in chain.steps:
        if step.weights is not None:
            check_weights(step.weights, names)
        for name in step.experts:
            index_of(name, names, chain.called)


def check_output(output: Output) -> None:
    """Check shapes, kinds of dtype and numbers of sources of one output.

    Raises
    ------
    CheckpointError
        A source of another shape, or of another kind of dtype.
    PlanError
        A copy of several experts, no experts, or not one name per expert.
    """
    if not output.experts or len(output.names) != len(output.experts):
        raise PlanError(
            f"output {output.name!r} has {len(output.experts)} experts and {len(output.names)} names",
            hint="Give at least one expert, and one name for each",
        )
    if output.chain is None and len(output.experts) != 1:
        raise PlanError(
            f"output {output.name!r} is a copy and has {len(output.experts)} sources",
            hint="Give the one that is copied, or a chain",
        )
    if output.chain is not None and output.chain.space == "delta" and output.base is None:
        raise PlanError(
            f"output {output.name!r}: {output.chain.called} works on task vectors and needs a base",
            hint="Give the base",
        )
    for name, ref in zip((*output.names, "base"), output.sources, strict=False):
        found = ref.info
        if found.shape != output.info.shape:
            raise CheckpointError(
                f"output {output.name!r}: expected shape {list(output.info.shape)}, found "
                f"{list(found.shape)} in tensor {ref.name!r} of {name!r} ({ref.checkpoint.label})",
                hint="Only tensors of one shape can be merged",
            )
        if found.kind != output.info.kind and not (found.is_float and output.info.is_float):
            raise CheckpointError(
                f"output {output.name!r}: expected {output.info.kind}, found {found.kind} in tensor "
                f"{ref.name!r} of {name!r} ({ref.checkpoint.label})",
                hint="Convert the checkpoint",
            )
