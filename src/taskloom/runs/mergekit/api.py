"""Carry out a mergekit file: read, check, resolve, merge, write."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from taskloom.errors import OutputError
from taskloom.merging.api import write_merged
from taskloom.merging.engine import Options, default_threads
from taskloom.merging.plain import Nan
from taskloom.merging.plan import MergePlan, plan_program
from taskloom.progress import Progress, silent
from taskloom.runs.mergekit.models import Model, PlannedCheckpoint, open_model
from taskloom.runs.mergekit.output import CONFIG_COPY, choose_chat_template, finish, patched
from taskloom.runs.mergekit.reading import Document, read_documents
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
        The directory it makes.
    resolved
        Its program and the rest.
    plan
        What it will read.
    chat_template
        Text that the output gets; None leaves the template's.
    ready
        The directory is there already, made from the same text.
    """

    document: Document
    path: Path
    resolved: Resolved
    plan: MergePlan
    chat_template: str | None
    ready: bool = False


@dataclass(frozen=True)
class StageReport:
    """What one document's merge did and cost."""

    name: str
    path: Path
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

    path: Path
    stages: tuple[StageReport, ...]


def plan_mergekit(
    path: str | Path,
    output: str | Path,
    *,
    intermediate: str | Path | None = None,
    seed: int = 0,
    allow_pickle: bool = False,
) -> list[Stage]:
    """Resolve every document of a mergekit file from headers and configurations alone.

    Parameters
    ----------
    path
        The file.
    output
        Directory that the document without a name makes.
    intermediate
        Folder for the directories of documents with names; if None, ``output`` itself where all have
        names, else ``output`` with ``.intermediate`` added to its name.
    seed
        Of random draws.
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
    target = Path(output)
    beside = target.with_name(target.name + ".intermediate")
    folder = Path(intermediate) if intermediate else beside
    if intermediate is None and all(d.name for d in documents):
        folder = target
    made: dict[str, Stage] = {}
    opened: dict[ModelName, Model] = {}
    stages = []
    for number, document in enumerate(documents, start=1):
        place = folder / document.name if document.name else target
        where = str(path) if len(documents) == 1 else f"{path}, {document.name or f'merge {number}'}"

        def find(name: ModelName) -> Model:
            stage = made.get(name.path)
            if stage is not None and not (stage.ready or stage.path.exists()):
                return _planned(name, stage)
            real = name if stage is None else name.model_copy(update={"path": str(stage.path)})
            if real not in opened:
                opened[real] = open_model(real, allow_pickle=allow_pickle)
            return opened[real]

        stage = _stage(document, place, find, where, seed)
        stages.append(stage)
        if document.name:
            made[document.name] = stage
    return stages


def _stage(
    document: Document, place: Path, find: Callable[[ModelName], Model], where: str, seed: int
) -> Stage:
    resolved = resolve_configuration(document.config, find, where=where, seed=seed)
    models = [find(name) for name in document.config.referenced]
    template = choose_chat_template(document.config.chat_template, models)
    plan = plan_program(resolved.program)
    return Stage(document, place, resolved, plan, template, ready=_same(place, document))


def _same(place: Path, document: Document) -> bool:
    copy = place / CONFIG_COPY
    named = document.name is not None
    return named and copy.is_file() and copy.read_text(encoding="utf-8") == document.text


def _planned(name: ModelName, stage: Stage) -> Model:
    """Return the model that a stage will make, known by names and shapes."""
    resolved = stage.resolved
    config: Mapping[str, object] = patched(resolved.template.config, resolved)
    checkpoint = PlannedCheckpoint(str(stage.path), resolved.program.infos)
    return Model(name, checkpoint, config, resolved.template.path)


def merge_mergekit(
    path: str | Path,
    output: str | Path,
    *,
    intermediate: str | Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
    allow_pickle: bool = False,
    threads: int | None = None,
    nan: Nan = "refuse",
    max_shard_bytes: int = 5_000_000_000,
    progress: Progress = silent,
) -> MergekitReport:
    """Carry out a mergekit file: one directory that ``from_pretrained`` loads per document.

    Everything that headers and configurations tell is checked, for all documents, before the first
    weight is read. An intermediate directory that is there already, made from the same text, is used
    as it is.

    Parameters
    ----------
    path, output, intermediate, seed, allow_pickle
        See `plan_mergekit`.
    overwrite
        Replace directories that exist.
    threads, nan, max_shard_bytes
        See `taskloom.merge_files`.
    progress
        Told how many tensors are done.

    Raises
    ------
    OutputError
        A directory exists, or cannot be written.
    PlanError, CheckpointError, NumericalError
        See `plan_mergekit` and `taskloom.merging.merge_files`.
    """

    def plan() -> list[Stage]:
        where = {"intermediate": intermediate}
        return plan_mergekit(path, output, **where, seed=seed, allow_pickle=allow_pickle)

    stages = plan()
    for stage in stages:
        if stage.path.exists() and not (overwrite or stage.ready):
            raise OutputError(
                f"{stage.path} exists already", hint="Remove it, or overwrite it (--force)"
            )
    options = Options(threads=threads or default_threads(), nan=nan, progress=progress)
    reports = []
    for number, stage in enumerate(stages):
        if stage.ready and not overwrite:
            reports.append(_report(stage, 0.0, reused=True))
            continue
        begun = time.perf_counter()
        current = plan()[number] if number else stage  # what was only planned exists now
        _write(current, seed, overwrite, max_shard_bytes, options)
        reports.append(_report(current, time.perf_counter() - begun, reused=False))
    return MergekitReport(Path(output), tuple(reports))


def _write(stage: Stage, seed: int, overwrite: bool, max_shard_bytes: int, options: Options) -> None:
    resolved, config = stage.resolved, stage.document.config
    stage.path.parent.mkdir(parents=True, exist_ok=True)
    chains = dict.fromkeys(str(chain) for chain, _ in resolved.program.groups if chain is not None)
    recipe = {
        "method": config.merge_method,
        "composition": "; ".join(chains) or "copy",
        "options": {"mergekit": stage.document.text},
    }
    write_merged(
        stage.plan,
        stage.path,
        recipe=recipe,
        sources={"models": [str(name) for name in config.referenced]},
        template=resolved.template.path,
        names=tuple(str(name) for name in config.referenced),
        seed=seed,
        overwrite=overwrite,
        max_shard_bytes=max_shard_bytes,
        options=options,
        extra=lambda folder: finish(folder, stage.document, resolved, stage.chat_template),
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
