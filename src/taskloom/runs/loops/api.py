"""``taskloom.loop``: alternate training and merging by a published method."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from taskloom.errors import PlanError
from taskloom.evaluation.score import Score
from taskloom.evaluation.task import get_task
from taskloom.learn.options import TrainOptions
from taskloom.progress import Progress, silent
from taskloom.registry import get
from taskloom.runs.desk import Desk, open_desk
from taskloom.runs.loops.encoders import EncoderShop, fits
from taskloom.runs.loops.journal import Journal
from taskloom.runs.loops.method import Plan, Setting
from taskloom.runs.loops.picture import save_loop
from taskloom.runs.loops.result import Compared, Gain, Loop
from taskloom.runs.loops.training import training_options
from taskloom.runs.loops.workshop import Workshop
from taskloom.runs.plan import Limits
from taskloom.runs.report.drawing import check_picture
from taskloom.runs.workspace import numeric_versions
from taskloom.store.atomic import atomic_directory, atomic_file, final_path, refuse_existing, write_json
from taskloom.store.cache import cache_root, canonical_digest
from taskloom.store.hub import resolve_model
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

#: part of every loop's key; raised whenever the same options lead to other weights
CODE_VERSION = 1


def loop(
    method: str,
    tasks: Sequence[str],
    base: str,
    *,
    options: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    start: str | None = None,
    compare: bool = True,
    keep: bool = False,
    output: str | Path | None = None,
    picture: str | Path | None = None,
    overwrite: bool = False,
    limits: Limits | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Loop:
    """Alternate training on tasks and merging, and hold the result against its rivals on validation.

    Works in the cache, where a round that is finished is never done again and an interrupted one goes
    on; the same call gives the same bytes. More rounds of the same loop continue it.

    Parameters
    ----------
    method
        Registered loop: ``atm``, ``cold`` or ``forkmerge``.
    tasks
        Registered tasks, or paths of annotations; two or more.
    base
        Directory or hub id. Heads are fitted on its features, and stay frozen.
    options
        Of the method.
    train
        Of training (`TrainOptions`): ``batch_size``, ``learning_rate``, ...
    start
        A model with the base's tensors to start from instead, such as a merge that is to be refined.
    compare
        Also train what the method is compared with, at equal data and compute.
    keep
        Keep the models of all rounds in the cache, not only the last.
    output
        Directory to write: the last model, its heads, ``loop.json`` and ``trace.csv``.
    picture
        PNG or SVG file of validation by round.
    overwrite
        Replace an existing output.
    limits
        Most examples of each split; the plan's defaults if None. Test splits stay sealed.
    seed
        Of the subsample, heads and every training.

    Returns
    -------
    Loop
        Rounds with validation scores (n, 95 % interval), what was merged, and the comparison.

    Raises
    ------
    PlanError, UnknownName, DataError, CheckpointError
        A name or option that is wrong, data or weights that do not fit.
    NumericalError
        A loss that is not finite; rounds before are kept.
    OutputError, IntegrityError
        An output that exists, a kept model that was changed.
    """
    entry = get("loop", method)
    names = tuple(get_task(task).name for task in tasks)
    _check(method, names)
    checked = entry.validate(options or {})
    training = training_options(train or {})
    if output is not None:
        refuse_existing(final_path(output), overwrite=overwrite)
    if picture is not None:
        check_picture(picture)
    desk = open_desk(base, seed=seed, progress=progress)
    first = desk.reader.encoder.directory if start is None else resolve_model(start)
    fits(desk.reader.encoder, first)
    data = {data.task.name: data for data in (desk.load(task, limits or Limits()) for task in tasks)}
    key = _key(method, checked, training, first, desk, [data[name].digest for name in names])
    folder = cache_root() / "loops" / f"{method}-{key[:16]}"
    shop = EncoderShop(desk, data, training, folder / "tuned")
    on = Setting(shop, names, first, folder / "rivals", seed, progress)
    plan: Plan = entry.function(on, **checked)
    scorer = plan.shop or shop
    judged = plan.judged or names
    journal = Journal(folder, first, keep=keep, progress=progress)
    with journal.held():
        rounds = journal.play(scorer, plan.turn, plan.rounds, judged)
        said = {name: field.default for name, field in entry.schema.model_fields.items()} | checked
        found = Loop(method, said, names, seed, rounds, notes=plan.notes)
        model = journal.model(found.last.number)
        if compare:
            rivals = hold_against(model, scorer, plan, folder, seed=seed, progress=progress)
            found = replace(found, compared=rivals)
            scorer.clear()
            shutil.rmtree(on.scratch, ignore_errors=True)
        if output is not None:
            found = _write(found, scorer, model, Path(output), overwrite)
    if picture is not None:
        save_loop(found, picture)
        found = replace(found, files={**found.files, "picture": Path(picture)})
    return found


def hold_against(
    model: Path,
    shop: Workshop,
    plan: Plan,
    folder: Path,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[Compared, ...]:
    """Make and score every rival, and return what the loop's model gains over each.

    What was compared after as many rounds is found again in ``folder``.

    Raises
    ------
    NumericalError, OutputError
        A rival cannot be trained or written.
    """
    judged = plan.judged or shop.tasks
    mine = shop.read(model, judged)
    found = []
    for place, (name, make) in enumerate(plan.compared.items()):
        note = folder / f"rival-{name}-{plan.rounds:03d}.json"
        known = _known(note)
        if known is None:
            rival = make(model)
            gains = (rival.mine or mine).over(rival.reading, seed=seed)
            known = Compared(name, rival.what, rival.steps, rival.reading.scores, gains)
            write_json(note, asdict(known))
        found.append(known)
        progress("compare", place + 1, len(plan.compared))
    return tuple(found)


def _known(note: Path) -> Compared | None:
    try:
        table = json.loads(note.read_text(encoding="utf-8"))
        scores = tuple(Score(**each) for each in table["scores"])
        gains = tuple(Gain(**each) for each in table["gains"])
        return Compared(**{**table, "scores": scores, "gains": gains})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check(method: str, names: tuple[str, ...]) -> None:
    if len(names) < 2:
        raise PlanError(f"{method} goes around two tasks or more, and there are {len(names)}")
    for name in names:
        if names.count(name) > 1:
            raise PlanError(f"task {name!r} is named twice", hint="Name each task once")


def _key(
    method: str,
    options: Mapping[str, Any],
    training: TrainOptions,
    start: Path,
    desk: Desk,
    data: Sequence[str],
) -> str:
    """Name a loop by all that decides its rounds; how many there are does not."""
    return canonical_digest(
        {
            "code": CODE_VERSION,
            "method": method,
            "options": {name: value for name, value in options.items() if name != "rounds"},
            "training": training.result_key(),
            "base": desk.reader.encoder.digest(),
            "start": SafetensorsCheckpoint(start).digest(),
            "data": list(data),
            "seed": desk.seed,
            "versions": numeric_versions(),
        }
    )


def trace_csv(found: Loop) -> str:
    """Return the trace as CSV, one row per round."""
    rows = found.table()
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _write(found: Loop, shop: Workshop, model: Path, output: Path, overwrite: bool) -> Loop:
    with atomic_directory(output, overwrite=overwrite) as folder:
        shutil.copytree(model, folder, dirs_exist_ok=True)
        for task in shop.tasks:
            shop.save_head(task, model, folder)
        write_json(folder / "loop.json", found.plain())
        with atomic_file(folder / "trace.csv") as temporary:
            temporary.write_text(trace_csv(found), encoding="utf-8")
    files = {"trace": output / "trace.csv", "record": output / "loop.json"}
    return replace(found, path=output, files=files)
