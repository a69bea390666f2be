"""Carry out a mergekit file: read, check, resolve, merge, write."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskloom.errors import OutputError, PlanError
from taskloom.merging.api import Digested, write_merged
from taskloom.merging.device import check_device, suited
from taskloom.merging.engine import Options, default_threads
from taskloom.merging.explain import explain_plan
from taskloom.merging.plain import Nan
from taskloom.merging.plan import MergePlan, plan_program
from taskloom.merging.provenance import recipe_hash
from taskloom.merging.target import named, target_of
from taskloom.progress import Progress, silent
from taskloom.runs.mergekit.models import Model, PlannedCheckpoint, open_model
from taskloom.runs.mergekit.output import choose_chat_template, finish, patched
from taskloom.runs.mergekit.reading import Document, read_documents
from taskloom.runs.mergekit.record import is_current, recipe_of, sources_of, write_card
from taskloom.runs.mergekit.resolve import Resolved, resolve_configuration
from taskloom.runs.mergekit.schema import ModelName


@dataclass(frozen=True, eq=False)
class Stage:
    """One document and what it comes to.

    Attributes
    ----------
    document
        What the file says.
    path
        The directory it makes, or its address in an object store.
    resolved
        Its program and the rest.
    plan
        What it will read.
    models
        Every model by the name the file gives it.
    recipe, sources
        What ``taskloom.json`` says of it.
    chat_template
        Text that the output gets; None leaves the template's.
    ready
        The directory of an intermediate merge is there already, made by the same recipe from the
        same inputs, which have not changed since.
    """

    document: Document
    path: Path | str
    resolved: Resolved
    plan: MergePlan
    models: Mapping[ModelName, Model]
    recipe: Mapping[str, Any]
    sources: Mapping[str, Any]
    chat_template: str | None
    ready: bool = False


@dataclass(frozen=True)
class StageReport:
    """What one document's merge did and cost."""

    name: str
    path: Path | str
    method: str
    tensors: int
    reads: int
    bytes_read: int
    seconds: float
    notes: tuple[str, ...]
    reused: bool


@dataclass(frozen=True)
class MergekitReport:
    """What carrying out a mergekit file did."""

    path: Path | str
    stages: tuple[StageReport, ...]


def plan_mergekit(
    path: str | Path,
    output: str | Path,
    *,
    intermediate: str | Path | None = None,
    seed: int = 0,
    nan: Nan = "refuse",
    allow_pickle: bool = False,
    slice_bytes: int | None = None,
    device: str = "cpu",
) -> list[Stage]:
    """Resolve every document of a mergekit file from headers and configurations alone.

    Parameters
    ----------
    path
        The file.
    output
        Directory, or address in an object store, that the document without a name makes.
    intermediate
        Folder for the directories of documents with names; if None, ``output`` itself where all have
        names, else ``output`` with ``.intermediate`` added to its name. It is read again, so it is a
        directory.
    seed
        Of random draws.
    nan, slice_bytes, device
        See `taskloom.merge_files`.
    allow_pickle
        Permit pickled weights, read with ``weights_only``.

    Returns
    -------
    list of Stage
        In an order in which each comes after those it uses.

    Raises
    ------
    PlanError, CheckpointError, SourceUnreachable
        See `read_documents` and `resolve_configuration`.
    """
    documents = read_documents(path)
    slice_bytes = suited(check_device(device), slice_bytes)
    target = named(output)
    folder = _folder(target, intermediate, [d.name for d in documents])
    made: dict[str, Stage] = {}
    opened: dict[ModelName, Model] = {}
    stages = []
    for number, document in enumerate(documents, start=1):
        place = folder / document.name if document.name else target
        where = str(path) if len(documents) == 1 else f"{path}, {document.name or f'merge {number}'}"

        def find(name: ModelName) -> Model:
            stage = made.get(name.path)
            if stage is not None and not Path(stage.path).exists():
                return _planned(name, stage)
            if name not in opened:
                # the model keeps the name that the file uses wherever it lies
                at = (
                    None
                    if stage is None
                    else {"path": str(Path(stage.path).absolute()), "adapter": None}
                )
                opened[name] = open_model(name, allow_pickle=allow_pickle, at=at)
            return opened[name]

        stage = _stage(document, place, find, where, seed, nan, slice_bytes)
        stages.append(stage)
        if document.name:
            made[document.name] = stage
    return stages


def _folder(target: Path | str, chosen: str | Path | None, names: Sequence[str | None]) -> Path:
    """Return the folder for the directories of documents with names."""
    if chosen is not None:
        return Path(chosen)
    if not isinstance(target, str):
        return target if all(names) else target.with_name(target.name + ".intermediate")
    if any(names):
        raise PlanError(
            f"{target}: documents with names are merged into directories, not into an object store",
            hint="Name a folder for them with --intermediate; the document without a name is written "
            "to the store",
        )
    return Path()  # no document asks for it


def _stage(
    document: Document,
    place: Path | str,
    find: Callable[[ModelName], Model],
    where: str,
    seed: int,
    nan: Nan,
    slice_bytes: int | None,
) -> Stage:
    resolved = resolve_configuration(document.config, find, where=where, seed=seed)
    models = {name: find(name) for name in document.config.referenced}
    template = choose_chat_template(document.config.chat_template, list(models.values()))
    plan = plan_program(resolved.program, slice_bytes=slice_bytes)
    recipe, sources = recipe_of(document, resolved), sources_of(models, seed=seed, nan=nan)
    ready = document.name is not None and is_current(Path(place), recipe, sources)
    return Stage(document, place, resolved, plan, models, recipe, sources, template, ready)


def _planned(name: ModelName, stage: Stage) -> Model:
    """Return the model that a stage will make, known by names and shapes."""
    resolved = stage.resolved
    config: Mapping[str, object] = patched(resolved.template.config, resolved)
    checkpoint = PlannedCheckpoint(str(stage.path), resolved.program.infos)
    return Model(name, checkpoint, config, resolved.template.path, str(Path(stage.path).absolute()))


def merge_mergekit(
    path: str | Path,
    output: str | Path,
    *,
    intermediate: str | Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
    allow_pickle: bool = False,
    threads: int | None = None,
    workers: int = 1,
    slice_bytes: int | None = None,
    max_shard_bytes: int = 5_000_000_000,
    nan: Nan = "refuse",
    digests: Digested = "all",
    discard: bool = False,
    ray: str | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> MergekitReport:
    """Carry out a mergekit file: one directory that ``from_pretrained`` loads per document.

    Everything that headers and configurations tell is checked, for all documents, before the first
    weight is read. An intermediate directory that is there already, made by the same recipe from the
    same inputs, is used as it is. An interrupted merge is continued by the same call.

    Parameters
    ----------
    path, output, intermediate, seed, allow_pickle
        See `plan_mergekit`.
    overwrite
        Replace directories that exist.
    threads, workers, slice_bytes, max_shard_bytes, nan, digests, discard, ray,
    device, progress
        See `taskloom.merge_files`.

    Raises
    ------
    OutputError
        A directory exists, or cannot be written.
    PlanError, CheckpointError, NumericalError
        See `plan_mergekit` and `taskloom.merging.merge_files`.
    """

    def plan() -> list[Stage]:
        where = {"intermediate": intermediate}
        more = {"nan": nan, "allow_pickle": allow_pickle, "slice_bytes": slice_bytes, "device": device}
        return plan_mergekit(path, output, **where, seed=seed, **more)  # type: ignore[arg-type]

    device = check_device(device, workers=workers, ray=ray)
    stages = plan()
    check_outputs(stages, overwrite=overwrite)
    options = Options(
        threads=threads or default_threads(),
        workers=workers,
        nan=nan,
        device=device,
        progress=progress,
    )
    reports = []
    for number, stage in enumerate(stages):
        if stage.ready:
            reports.append(_report(stage, 0.0, reused=True))
            continue
        begun = time.perf_counter()
        current = plan()[number] if number else stage  # what was only planned exists now
        _write(
            current,
            overwrite=overwrite,
            max_shard_bytes=max_shard_bytes,
            digests=digests,
            discard=discard,
            ray=ray,
            options=options,
        )
        reports.append(_report(current, time.perf_counter() - begun, reused=False))
    return MergekitReport(Path(output), tuple(reports))


def check_outputs(stages: Sequence[Stage], *, overwrite: bool) -> None:
    """Refuse directories that exist and are not what a stage would make.

    Raises
    ------
    OutputError
        Names the first.
    """
    for stage in stages:
        if isinstance(stage.path, str):
            target_of(stage.path).check(stage.plan.program, overwrite=overwrite)
            continue
        if stage.ready or overwrite or not os.path.exists(stage.path):
            continue
        other = " and was not made of this file and these inputs" if stage.document.name else ""
        raise OutputError(
            f"{stage.path} exists already{other}", hint="Remove it, or overwrite it (--force)"
        )


def explain_mergekit(
    stages: Sequence[Stage],
    *,
    place: bool = True,
    threads: int | None = None,
    overwrite: bool = False,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Return what each stage would do, as `taskloom.explain` does; reads no weights.

    Parameters
    ----------
    stages
        From `plan_mergekit`.
    place
        Whether the outputs are known: then they are checked, and the room on their disks.
    threads, overwrite, device
        See `taskloom.merge_files`.

    Raises
    ------
    OutputError
        An output exists, cannot be written, or its disk is too full.
    """
    if place:
        check_outputs(stages, overwrite=overwrite)
    return [
        {
            "name": stage.document.name,
            "path": stage.path,
            "models": [str(name) for name in stage.models],
            "recipe": dict(stage.recipe),
            "recipe_hash": recipe_hash(stage.recipe),
            "notes": list(stage.resolved.notes),
            "reused": stage.ready,
            **explain_plan(
                stage.plan,
                stage.path if place and not stage.ready else None,
                threads=threads,
                overwrite=overwrite,
                device=check_device(device),
            ),
        }
        for stage in stages
    ]


def _write(
    stage: Stage,
    *,
    overwrite: bool,
    max_shard_bytes: int,
    digests: Digested,
    discard: bool,
    ray: str | None,
    options: Options,
) -> None:
    resolved, models = stage.resolved, list(stage.models.values())

    def extra(folder: Path) -> None:
        finish(folder, stage.document, resolved, stage.chat_template)
        write_card(folder, Path(stage.path).name, stage.document, resolved, models)

    write_merged(
        stage.plan,
        stage.path,
        recipe=stage.recipe,
        sources=stage.sources,
        template=resolved.template.path,
        names=tuple(str(name) for name in stage.models),
        seed=stage.sources["seed"],
        overwrite=overwrite,
        max_shard_bytes=max_shard_bytes,
        digests=digests,
        discard=discard,
        ray=ray,
        options=options,
        extra=extra,
    )


def _report(stage: Stage, seconds: float, *, reused: bool) -> StageReport:
    return StageReport(
        name=stage.document.name or "output",
        path=stage.path,
        method=stage.document.config.merge_method,
        tensors=len(stage.resolved.program.outputs),
        reads=stage.plan.reads,
        bytes_read=stage.plan.bytes_read,
        seconds=seconds,
        notes=stage.resolved.notes,
        reused=reused,
    )
