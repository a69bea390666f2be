"""Tensors of an output that are not merged but given: the statistics of batch norm, for one.

An `Amend` is called with the program of a merge, before anything is written, and returns another one.
What it gives is copied into the output like any tensor, so that digests, the record and a folder that
appears whole or not at all are those of every merge.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from taskloom.errors import NumericalError
from taskloom.lazy import Tensor, torch
from taskloom.merging.program import Output, Program, Ref
from taskloom.store.memory import MemoryCheckpoint

#: program -> another one, and what is recorded, JSON-ready: ``what`` was given, and as which ``tensors``
Amend = Callable[[Program], tuple[Program, Mapping[str, Any]]]


def left_out(program: Program, names: Collection[str]) -> Program:
    """Return the program with some tensors taken over from the base (the first expert without one).

    They take no part in what is measured of a whole model either, such as the threshold of TIES.
    """

    def start(output: Output) -> Ref:
        return output.base or output.experts[0]

    return _copied(program, {o.name: start(o) for o in program.outputs if o.name in names}, "base")


def stand_in(program: Program, tensors: Mapping[str, Tensor], label: str) -> Program:
    """Return the program with some tensors given, in the dtypes that it writes.

    Parameters
    ----------
    tensors
        By name, each of its output's shape; what the program does not write is left out.
    label
        How messages and the record call where they come from.

    Raises
    ------
    NumericalError
        A value that the output's dtype cannot hold.
    """
    cast = {o.name: _cast(o, tensors[o.name], label) for o in program.outputs if o.name in tensors}
    given = MemoryCheckpoint(cast, label=label)
    return _copied(program, {name: Ref(given, name) for name in cast}, label)


def _cast(output: Output, tensor: Tensor, label: str) -> Tensor:
    found = tensor.detach().to(output.info.dtype)
    if not bool(torch.isfinite(found).all()):
        raise NumericalError(
            f"tensor {output.name!r} of {label} has values that {output.info.kind} cannot hold",
            hint="Write another dtype",
        )
    return found


def _copied(program: Program, sources: Mapping[str, Ref], label: str) -> Program:
    outputs = tuple(
        replace(o, chain=None, base=None, experts=(sources[o.name],), names=(label,), beside=())
        if o.name in sources
        else o
        for o in program.outputs
    )
    return Program(outputs, program.aliases)
