"""What a merge would do, from configurations and headers alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taskloom.errors import OutputError
from taskloom.lazy import torch
from taskloom.merging.api import Experts, _dtype, _recipe
from taskloom.merging.build import partial_of
from taskloom.merging.device import check_device, memory, suited
from taskloom.merging.engine import default_threads
from taskloom.merging.plan import MergePlan, plan_program
from taskloom.merging.prepare import prepare
from taskloom.merging.program import program_of
from taskloom.merging.provenance import recipe_hash, recipe_record
from taskloom.merging.recipe import RecipeLike
from taskloom.merging.statistics import Statistics
from taskloom.store.atomic import refuse_existing
from taskloom.store.open import Source


def explain(
    base: Source | None,
    experts: Experts,
    recipe: RecipeLike,
    output: str | Path | None = None,
    *,
    names: Sequence[str] | None = None,
    seed: int | None = None,
    dtype: torch.dtype | str | None = None,
    overwrite: bool = False,
    allow_pickle: bool = False,
    threads: int | None = None,
    slice_bytes: int | None = None,
    statistics: Statistics | None = None,
    heads: str | Sequence[str] = "refuse",
    tokenizer: str = "base",
    chat_template: str | None = None,
    device: str = "cpu",
    **options: Any,
) -> dict[str, Any]:
    """Check everything that can be known before weights are read, and say what a merge would do.

    Parameters
    ----------
    base, experts, recipe, output, names, seed, dtype, overwrite, allow_pickle, threads, slice_bytes,
    statistics, heads, tokenizer, chat_template, device, **options
        As `taskloom.merge_files`. Without an ``output`` nothing is said of the disk.

    Returns
    -------
    dict
        ``recipe`` (with every option) and its ``recipe_hash``; ``tensors``, ``reads``,
        ``bytes_read``, ``bytes_written``, ``memory_bytes`` (above an empty run), ``threads``,
        ``groups`` (by chain), ``inputs`` (files with their bytes), ``device``; with another device than
        the CPU ``device_memory_bytes`` (apart from what its driver takes); and, with an output,
        ``bytes_free`` on its disk.

    Raises
    ------
    UnknownName, PlanError, CheckpointError, OutputError
        What `taskloom.merge_files` would raise before it reads a weight; a disk that is too full.
    """
    chosen = _recipe(recipe, seed, options)
    device = check_device(device)
    pool = prepare(
        base,
        experts,
        names=names,
        allow_pickle=allow_pickle,
        heads=heads,
        tokenizer=tokenizer,
        chat_template=chat_template,
    ).pool
    program = program_of(pool, chosen.chain, _dtype(dtype), statistics)
    plan = plan_program(program, slice_bytes=suited(device, slice_bytes))
    record = recipe_record(chosen)
    return {
        "recipe": record,
        "recipe_hash": recipe_hash(record),
        **explain_plan(plan, output, threads=threads, overwrite=overwrite, device=device),
    }


def explain_plan(
    plan: MergePlan,
    output: str | Path | None = None,
    *,
    threads: int | None = None,
    overwrite: bool = False,
    device: str = "cpu",
) -> dict[str, Any]:
    """Return what `explain` says of a plan, without the recipe."""
    count = threads or default_threads()
    told = plan.explain(count) | {"device": device}
    if device != "cpu":
        needed = memory(plan, count)
        told |= {"memory_bytes": needed.host, "device_memory_bytes": needed.device}
    if output is not None:
        told["bytes_free"] = _room(Path(output), plan.bytes_written, overwrite)
    return told


def _room(output: Path, wanted: int, overwrite: bool) -> int:
    """Return the free bytes of the disk an output would be on."""
    final = output.expanduser().resolve()
    refuse_existing(final, overwrite=overwrite)
    parent = next(each for each in final.parents if each.exists())
    if not os.access(parent, os.W_OK):
        raise OutputError(
            f"{final}: {parent} may not be written to",
            hint="Choose an output in a folder you may write to",
        )
    free = shutil.disk_usage(parent).free
    model = partial_of(final)
    held = (
        sum(f.stat().st_blocks * 512 for f in model.rglob("*") if f.is_file()) if model.exists() else 0
    )
    if free + held < wanted:
        raise OutputError(
            f"{final}: the merged weights take {wanted:,} bytes, and its disk has {free:,} left",
            hint="Make room, or choose an output on another disk",
        )
    return free
