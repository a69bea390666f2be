"""Hold compositions against what is simpler, on examples that none of them was fitted on.

The rivals are the base, every expert, their plain average, and the base fine-tuned on the labels that
a composition may see, all under the same heads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from taskloom import __version__
from taskloom.errors import PlanError
from taskloom.lazy import Tensor
from taskloom.learn.mixed import Mixture, Part, train_mixture
from taskloom.learn.options import TrainOptions
from taskloom.merging.api import merge
from taskloom.progress import Progress, silent
from taskloom.registry import get
from taskloom.runs.candidates import read_all
from taskloom.runs.judging import Guarded, Judged, Kind, Mode, check_mode, judge, table_of
from taskloom.runs.seen import Deal, Labels, Model, Seen
from taskloom.runs.workspace import numeric_versions
from taskloom.store.atomic import atomic_file, write_json
from taskloom.store.cache import cache_root, file_digest
from taskloom.store.open import open_checkpoint
from taskloom.store.pool import Pool
from taskloom.store.safetensors_dir import SafetensorsCheckpoint
from taskloom.store.writer import write_model

#: fits on what is seen, and on nothing else
Compose = Callable[[Seen], Model]
Load = Callable[[], Mapping[str, Tensor]]
BASE, AVERAGE, TUNED = "base", "average", "fine-tune"
#: of the fine-tune: passes over its examples, and the fewest steps
EPOCHS, STEPS = 5, 30
#: file beside the weights of what a guard hands over
NOTE = "taskloom.json"


@dataclass(frozen=True)
class Fixed:
    """A rival whose weights no label changes."""

    kind: Kind
    load: Load


@dataclass(frozen=True, eq=False)
class Contest:
    """Compositions and rivals, judged.

    Attributes
    ----------
    verdict
        Who wins, by how much, and why.
    dealt
        What was seen and judged.
    rivals
        Name -> weights of rivals that were tried; the fine-tune is trained on all labels when asked.
    """

    verdict: Guarded
    dealt: Deal
    rivals: Mapping[str, Load] = field(default_factory=dict)

    def write(self, name: str, output: str | Path, *, overwrite: bool = False) -> Path:
        """Write a rival as a directory that transformers loads, with heads, model card and the reason.

        Raises
        ------
        PlanError
            The name of a composition, which is written by whoever made it, or of nobody.
        OutputError
            The output exists or cannot be written.
        """
        if name not in self.rivals:
            raise PlanError(
                f"{name!r} is no rival that the guard holds", hint=f"Take {', '.join(self.rivals)}"
            )
        seen = self.dealt.final
        folder, weights = seen.desk.reader.encoder.directory, self.rivals[name]()
        infos = SafetensorsCheckpoint(folder).tensors

        def extra(temporary: Path) -> None:
            for shots in seen.tasks.values():
                shots.head.save(temporary)
            title = f"# {name}\n\nHanded over by the guard of taskloom {__version__}.\n"
            (temporary / "README.md").write_text(title + _section(self.verdict), encoding="utf-8")
            record = {
                "format": 1,
                "kind": "guarded",
                "taskloom": __version__,
                "model": name,
                "base": str(folder),
                "experts": list(seen.pool.names),
                "guard": plain(self.verdict),
                "weights": SafetensorsCheckpoint(temporary).digest(),
            }
            write_json(temporary / NOTE, record)

        return write_model(
            output,
            infos=infos,
            tensors=((tensor, weights[tensor].to(info.dtype)) for tensor, info in infos.items()),
            template=folder,
            overwrite=overwrite,
            extra=extra,
        )


def guard_composition(
    dealt: Deal,
    compositions: Mapping[str, Compose],
    *,
    mode: Mode = "strict",
    tune: Mapping[str, Any] | None = None,
    tuned: bool = True,
    merges: Mapping[str, Load] | None = None,
    tasks: Sequence[str] | None = None,
    progress: Progress = silent,
) -> Contest:
    """Judge compositions and their rivals on held-out examples.

    Every composition, and the fine-tune, is made once for every part that is held out: once where a
    validation split is, and once for each fold of few labels.

    Parameters
    ----------
    dealt
        What may be seen and what is judged; see `taskloom.runs.seen.deal`.
    compositions
        Name -> how it is fitted; the first of equals wins.
    mode
        ``"strict"``: whoever wins is handed over; ``"warn"``: the best composition, and the verdict says
        what it loses to.
    tune, tuned
        Options of the fine-tune (`TrainOptions`): by default 5 passes over the examples in batches of
        16, and 30 steps at least. Without ``tuned`` there is none, and the verdict says so.
    merges
        Further rivals: merges by name.
    tasks
        Those that are judged; all if None.

    Raises
    ------
    PlanError, UnknownName
        Another mode; two models of one name; options of the fine-tune that do not fit.
    DataError, NumericalError
        As fits, training and `taskloom.runs.judging.judge`.
    """
    check_mode(mode)
    final = dealt.final
    fixed = _fixed(final.pool, merges or {})
    names = [*fixed, *([TUNED] if tuned else []), *compositions]
    _refuse_twice(names)
    options = _options(tune or {}, final) if tuned else None
    judged = tuple(final.tasks) if tasks is None else tuple(tasks)
    makers: dict[str, Compose] = {}
    if options is not None:
        makers[TUNED] = lambda seen: seen.model(_tuned(seen, options, progress))
    makers |= compositions
    found: dict[str, list[dict[str, Labels]]] = {}
    for number, name in enumerate(names):
        progress("hold against rivals", number, len(names))
        found[name] = _predicted(dealt, judged, fixed.get(name), makers.get(name))
    progress("hold against rivals", len(names), len(names))
    kinds: dict[str, Kind] = {name: each.kind for name, each in fixed.items()}
    kinds |= {TUNED: "fine-tune"} if tuned else {}
    kinds |= dict.fromkeys(compositions, "composition")
    verdict = judge(
        [_gathered(dealt, task, found) for task in judged],
        kinds,
        mode=mode,
        split="cross-validation" if dealt.folded else "validation",
        folds=dealt.folds,
        seed=final.desk.seed,
        absent={} if tuned else {TUNED: "it was not asked for"},
        caution=dealt.caution(judged),
    )
    rivals = {name: each.load for name, each in fixed.items()}
    if options is not None:
        rivals[TUNED] = partial(_tuned, final, options, progress)
    return Contest(verdict, dealt, rivals)


def plain(verdict: Guarded) -> dict[str, Any]:
    """Return a verdict as JSON-ready data."""
    return {**asdict(verdict), "scores": {n: [asdict(s) for s in r] for n, r in verdict.scores.items()}}


def tell(folder: str | Path, contest: Contest, said: Mapping[str, str] | None = None) -> None:
    """Add to a composition that was written its heads, and what the guard found.

    The reason goes into the model card ``README.md`` and, with all numbers, under ``guard`` into
    ``taskloom.json``, whose list of files is brought up to date, so that ``taskloom verify`` knows them.

    Parameters
    ----------
    said
        What a fit says of itself: under ``fit`` into ``taskloom.json``; whether it has seen test inputs
        into the card as well.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    place = Path(folder)
    card, note = place / "README.md", place / NOTE
    tell_beside(place, contest, said)
    if note.is_file():
        record = json.loads(note.read_text(encoding="utf-8"))
        added = [card, *(place / "heads").glob("*.safetensors")]
        sizes = {
            path.relative_to(place).as_posix(): {
                "bytes": path.stat().st_size,
                "sha256": file_digest(path),
            }
            for path in sorted(added)
        }
        listed = record.get("outputs", {})
        if "files" in listed:
            listed["files"] = dict(sorted({**listed["files"], **sizes}.items()))
        record |= {"guard": plain(contest.verdict)}
        write_json(note, record | ({} if said is None else {"fit": dict(said)}))


def tell_beside(
    place: Path, contest: Contest, said: Mapping[str, str] | None = None, *, title: str = ""
) -> None:
    """Write the heads and the model card into a folder; `tell` without the record.

    Parameters
    ----------
    said
        What a fit says of itself.
    title
        Of a card that is not there yet; the folder's name if there is none.
    """
    for shots in contest.dealt.final.tasks.values():
        shots.head.save(place)
    card = place / "README.md"
    before = card.read_text(encoding="utf-8") if card.is_file() else f"# {title or place.name}\n"
    text = before.rstrip("\n") + "\n" + _seen(said or {}) + _section(contest.verdict)
    with atomic_file(card) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _seen(said: Mapping[str, str]) -> str:
    """Return the card's words on test inputs that a fit has seen; none if it has seen none."""
    seen = said.get("transductive", "no")
    if seen == "no":
        return ""
    return (
        f"\n## What it has seen\n\nThe fit was transductive ({seen}). A score on that split is not one "
        "on unseen inputs.\n"
    )


def _section(verdict: Guarded) -> str:
    how = f"{verdict.folds}-fold cross-validation" if verdict.folds else "the validation split"
    reason = f"{verdict.reason[0].upper()}{verdict.reason[1:]}."
    return f"\n## Why this model\n\n{reason}\n\n{table_of(verdict.margins, how)}\n"


def _fixed(pool: Pool, merges: Mapping[str, Load]) -> dict[str, Fixed]:
    assert pool.base is not None
    experts = {expert.name: expert for expert in pool.experts}
    for taken in (BASE, AVERAGE, TUNED):
        if taken in experts:
            raise PlanError(
                f"an expert is called {taken!r}, which means another model here", hint="Rename it"
            )
    found = {BASE: Fixed("base", partial(read_all, pool.base))}
    found |= {n: Fixed("expert", partial(read_all, e.checkpoint)) for n, e in experts.items()}
    found[AVERAGE] = Fixed("merge", lambda: merge(pool.base, experts, "average"))
    return found | {name: Fixed("merge", load) for name, load in merges.items()}


def _refuse_twice(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise PlanError(f"two models are called {name!r}", hint="Give each model its own name")


def _predicted(
    dealt: Deal, tasks: Sequence[str], fixed: Fixed | None, make: Compose | None
) -> list[dict[str, Labels]]:
    """Return what a model says of every part that is held out; its weights go when it returns."""
    weights = None if fixed is None else fixed.load()
    found = []
    for held in dealt.held:
        if weights is not None:
            model = held.seen.model(weights)
        else:
            assert make is not None
            model = make(held.seen)
        found.append({task: model(task, held.examples[task].inputs) for task in tasks})
    return found


def _gathered(dealt: Deal, task: str, found: Mapping[str, Sequence[Mapping[str, Labels]]]) -> Judged:
    return Judged(
        task,
        dealt.final.tasks[task].task.metric,
        np.concatenate([held.examples[task].labels for held in dealt.held]),
        {name: np.concatenate([part[task] for part in parts]) for name, parts in found.items()},
    )


def _options(given: Mapping[str, Any], seen: Seen) -> TrainOptions:
    options = TrainOptions.parse({"seed": seen.desk.seed, "batch_size": 16, **given})
    get("train", options.method)
    if options.max_length is None:
        options = options.model_copy(update={"max_length": seen.desk.reader.options.max_length})
    return options


def _tuned(seen: Seen, options: TrainOptions, progress: Progress) -> Mapping[str, Tensor]:
    """Return the base fine-tuned on the examples that are seen, all tasks in one model."""
    assert seen.pool.base is not None
    trained = _train(seen, options, progress)
    return read_all(open_checkpoint(trained.directory, base=seen.pool.base))


def _train(seen: Seen, options: TrainOptions, progress: Progress) -> Mixture:
    count = sum(len(shots.train) for shots in seen.tasks.values())
    if options.steps is None:
        epochs = options.epochs if "epochs" in options.model_fields_set else EPOCHS
        steps = max(STEPS, math.ceil(epochs * count / options.batch_size))
        options = options.model_copy(update={"steps": steps})
    parts = [
        Part(
            shots.head,
            (shots.train.inputs, shots.train.labels),
            (shots.check.inputs, shots.check.labels),
            weight=len(shots.train),
        )
        for shots in seen.tasks.values()
    ]
    used = [need for need in get("train", options.method).needs if need == "peft"]
    return train_mixture(
        seen.desk.reader.encoder.directory,
        parts,
        options,
        cache=cache_root() / "experts",
        key_extra={"versions": numeric_versions(*used)},
        progress=progress,
    )
