"""``taskloom.group``: which few of many sources to take, or which belong together.

A chooser of the family "set" says by its arguments what it looks at; here each of these things is made
from models, tasks and files, once it is asked for.
"""

from __future__ import annotations

import csv
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.choose.cka import cka_matrix
from taskloom.choose.data_map import while_learned
from taskloom.choose.knowledge import boundary_probes, knowledge_vector
from taskloom.choose.lora_similarity import lora_similarity
from taskloom.choose.set_choice import SetChoice
from taskloom.choose.task_vectors import cosine_matrix
from taskloom.errors import DataError, PlanError
from taskloom.evaluation.data import TaskData
from taskloom.evaluation.load import load_task
from taskloom.learn.head import fit_head
from taskloom.models.head import Head
from taskloom.progress import Progress, silent
from taskloom.registry import Entry, get
from taskloom.runs.beside import Beside, of_pool
from taskloom.runs.candidates import singles
from taskloom.runs.desk import Desk, Sources, by_name_or_order, open_desk
from taskloom.runs.targets import PARTS
from taskloom.store.pool import Pool, open_pool

Array = NDArray[Any]
#: epochs of the heads whose confidences are recorded
EPOCHS = 10
#: unlabeled inputs that models are asked, and how many of them, those nearest to borders, are compared
ASKED, PROBES = 256, 64
#: examples of a task that are perturbed, perturbations of each, and the share of words that is dropped
UNSURE, PERTURBED, DROPPED = 32, 8, 0.2


@dataclass(frozen=True)
class Grouping:
    """What a chooser found.

    Attributes
    ----------
    method
        Its name.
    names
        Of the candidates.
    choice
        By their numbers.
    """

    method: str
    names: tuple[str, ...]
    choice: SetChoice

    @property
    def chosen(self) -> tuple[str, ...]:
        """Names of what was taken, in the order in which it was."""
        return tuple(self.names[k] for k in self.choice.chosen)

    @property
    def groups(self) -> dict[str, list[str]]:
        """Who stands for a group -> its members; empty where there are none."""
        found: dict[str, list[str]] = {name: [] for name in self.chosen if self.choice.groups}
        for name, group in zip(self.names, self.choice.groups, strict=False):
            found[self.chosen[group]].append(name)
        return found


def group(
    method: str,
    *,
    target: str | None = None,
    base: str | None = None,
    experts: Sources = (),
    matrix: str | Path | None = None,
    trained_on: Mapping[str, str] | None = None,
    n_labels: int = 64,
    seed: int = 0,
    progress: Progress = silent,
    **options: Any,
) -> Grouping:
    """Take some of many sources, or group all of them, by a registered chooser.

    Parameters
    ----------
    method
        Of the family "set", such as ``"facility_location"``.
    target
        Task whose examples sources are looked at through, where the method does that. For likeness of
        sources (``facility_location``): with a target by how alike they see its examples (CKA), without
        one by the cosine of their changes of weights.
    base, experts
        As for ``taskloom.select``; not needed with a ``matrix``.
    matrix
        CSV file with names in the first row and the first column: likeness of candidates, or transfer
        from rows to columns.
    trained_on
        Expert -> the task it was trained on, where its directory does not say so.
    n_labels
        Labelled examples of the target that may be used.
    options
        Of the method, such as ``size``.

    Raises
    ------
    UnknownName, PlanError
        A method that is not registered, an option that it does not have, or too little to look at.
    DataError, CheckpointError, NumericalError
        Data or weights that do not fit.
    """
    entry = get("set", method)
    checked = entry.validate(options)
    wanted = looked_at(entry)
    if matrix is not None:
        if len(wanted) != 1 or wanted[0] not in ("similarity", "transfer", "adapter_cosines"):
            raise PlanError(
                f"{method} looks at {' and '.join(wanted)}, and a matrix is none of it",
                hint="Give models and tasks instead of the matrix",
            )
        names, table = read_matrix(matrix)
        return Grouping(method, names, entry.function(table, **checked))
    if base is None or not experts:
        raise PlanError(
            f"{method} looks at {' and '.join(wanted)}, and there are neither models nor a matrix",
            hint="Give --base and --expert, or --matrix FILE",
        )
    desk = open_desk(base, seed=seed, progress=progress)
    sources, names_given = by_name_or_order(experts)
    pool = open_pool(desk.reader.encoder.directory, sources, names=names_given)
    data = None if target is None else load_task(target, seed=seed, n_labels=n_labels, progress=progress)
    beside = of_pool(
        desk.reader,
        desk.base,
        pool,
        trained_on=trained_on or {},
        reference=None,
        seed=seed,
        progress=progress,
    )
    supply = Supply(method, desk, pool, data, beside, seed, progress)
    return Grouping(method, pool.names, entry.function(*map(supply, wanted), **checked))


def looked_at(entry: Entry) -> tuple[str, ...]:
    """Return the names of what a chooser looks at, in its order.

    >>> looked_at(get("set", "know2vec"))
    ('model_vectors', 'model_queries', 'query')
    """
    found = inspect.signature(entry.function).parameters.values()
    return tuple(each.name for each in found if each.kind is not each.KEYWORD_ONLY)


def read_matrix(path: str | Path) -> tuple[tuple[str, ...], Array]:
    """Read a table of numbers with names in the first row and column; return row names and ``(K, T)``.

    Raises
    ------
    DataError
        No such file, rows of other lengths, a name twice, or what is no number.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the matrix cannot be read: {error}") from None
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if len(rows) < 2 or any(len(row) != len(rows[0]) for row in rows) or len(rows[0]) < 2:
        raise DataError(
            f"{path}: expected a row of names, then rows of a name and as many numbers, "
            f"found {len(rows)} rows of {sorted({len(row) for row in rows})} cells",
            hint="Write a CSV file such as ',a,b' and 'a,1,0.5' and 'b,0.5,1'",
        )
    names = tuple(row[0] for row in rows[1:])
    if len(set(names)) != len(names):
        raise DataError(f"{path}: expected every row to have a name of its own, found one twice")
    try:
        table = np.array([[float(cell) for cell in row[1:]] for row in rows[1:]])
    except ValueError as error:
        raise DataError(f"{path}: expected numbers after the first row and column: {error}") from None
    return names, table


@dataclass(frozen=True)
class Supply:
    """Makes what choosers look at, by the name of the argument."""

    method: str
    desk: Desk
    pool: Pool
    data: TaskData | None
    beside: Beside
    seed: int
    progress: Progress

    def __call__(self, name: str) -> Any:
        """Return what the argument of that name is.

        Raises
        ------
        PlanError, DataError
            Something is missing: a target, a head, a task, or a matrix.
        """
        made: Mapping[str, Callable[[], Any]] = {
            "similarity": self._similarity,
            "adapter_cosines": lambda: lora_similarity(self.pool, progress=self.progress).cosine,
            "target_embeddings": lambda: self._base_of(self._target),
            "source_embeddings": lambda: [self._base_of(self._task(n)) for n in self.pool.names],
            "confidences": self._confidences,
            "likelihoods": self._likelihoods,
            "model_vectors": lambda: [knowledge_vector(a[self._probes]) for a in self._answers],
            "model_queries": lambda: [self._knows(self._task(n)) for n in self.pool.names],
            "query": lambda: self._knows(self._target),
        }
        if name not in made:
            raise PlanError(
                f"{self.method} looks at {name!r}, which models do not say",
                hint="Give it as --matrix FILE" if name == "transfer" else "Call it from Python",
            )
        return made[name]()

    @property
    def _target(self) -> TaskData:
        if self.data is None:
            raise PlanError(f"{self.method} needs a target task", hint="Name it after the method")
        return self.data

    def _task(self, name: str) -> TaskData:
        found = self.beside.task_of(name)
        if found is None:
            raise DataError(
                f"expert {name!r}: {self.method} looks at examples of the source's task, and nobody "
                "knows which it is",
                hint="Say it with --trained-on NAME=TASK",
            )
        return found

    def _head(self, name: str) -> Head:
        found = self.beside.head_of(name)
        if found is None:
            raise DataError(
                f"expert {name!r}: {self.method} looks at the source's own head, and there is none",
                hint="Give an expert with its head in heads/, as taskloom train writes it",
            )
        return found

    def _labelled(self) -> tuple[list[Array], Array]:
        """Return every expert's features of the target's labelled examples, and the labels."""
        data = self._target
        read = self.desk.reader.read_parts(singles(self.pool)[1:], [data], PARTS)
        found = [
            np.concatenate([read[f"expert:{name}", data.task.name, part] for part in PARTS])
            for name in self.pool.names
        ]
        return found, np.concatenate([data.train.labels, data.validation.labels])

    def _similarity(self) -> Array:
        if self.data is None:
            return cosine_matrix(self.pool, progress=self.progress)
        return cka_matrix(self._labelled()[0])

    def _confidences(self) -> Array:
        features, labels = self._labelled()
        classes = np.unique(labels, return_inverse=True)[1]
        each = np.arange(len(labels))
        return np.stack(
            [
                while_learned(own, labels, epochs=EPOCHS, seed=self.seed)[:, each, classes]
                for own in features
            ]
        )

    def _base_of(self, data: TaskData) -> Array:
        """Return the base's features of up to 500 examples of a task, each scaled to length 1."""
        rows = data.train.take(np.arange(min(len(data.train), 500)))
        found = self.desk.reader.encoder.features(rows.inputs).astype(np.float64)
        norms = np.linalg.norm(found, axis=1, keepdims=True)
        scaled: Array = found / np.where(norms > 0, norms, 1.0)
        return scaled

    def _likelihoods(self) -> list[Array]:
        """Return what the base, under each source's head, thinks of its answer to perturbed texts."""
        found = []
        for number, name in enumerate(self.pool.names, start=1):
            head, data = self._head(name), self._task(name)
            inputs = data.train.take(np.arange(min(len(data.train), UNSURE))).inputs
            if not isinstance(inputs, list):
                raise DataError(
                    f"{self.method}: expected texts, which words can be dropped from; the inputs of "
                    f"{data.task.name!r} are arrays",
                    hint="Choose among text tasks",
                )
            found.append(self._moved(head, inputs))
            self.progress("perturb prompts", number, len(self.pool))
        return found

    def _moved(self, head: Head, texts: list[str]) -> Array:
        encoder = self.desk.reader.encoder
        plain = head.probabilities(encoder.features(texts))
        answer = plain.argmax(1)
        columns = [plain[np.arange(len(texts)), answer]]
        random = np.random.default_rng(self.seed)
        for _ in range(PERTURBED):
            other = [drop_words(text, DROPPED, random) for text in texts]
            now = head.probabilities(encoder.features(other))
            columns.append(now[np.arange(len(texts)), answer])
        return np.stack(columns, axis=1)

    @cached_property
    def _asked(self) -> Any:
        inputs = self._target.train.inputs
        return inputs[:ASKED]

    @cached_property
    def _answers(self) -> list[Array]:
        """Return every model's probabilities of the probe inputs, which are the target's, unlabeled."""
        encoder = self.desk.reader.encoder
        found = []
        for candidate, name in zip(singles(self.pool)[1:], self.pool.names, strict=True):
            features = encoder.features(self._asked, weights=candidate.weights())
            found.append(self._head(name).probabilities(features))
        return found

    @cached_property
    def _probes(self) -> Array:
        return boundary_probes(self._answers, PROBES)

    def _knows(self, data: TaskData) -> Array:
        """Return the vector of a data set: of a head that is fitted to it on the base's features."""
        encoder = self.desk.reader.encoder
        head = fit_head(
            encoder.features(data.train.inputs),
            data.train.labels,
            data.task.label_names,
            task=data.task.name,
            seed=self.seed,
        )
        return knowledge_vector(head.probabilities(encoder.features(self._asked))[self._probes])


def drop_words(text: str, share: float, random: np.random.Generator) -> str:
    """Return a text without some of its words; one always stays.

    >>> drop_words("a b c d e", 0.4, np.random.default_rng(0))
    'a e'
    >>> drop_words("alone", 1.0, np.random.default_rng(0)), drop_words("", 0.5, np.random.default_rng(0))
    ('alone', '')
    """
    words = text.split()
    if not words:
        return text
    kept = [word for word, luck in zip(words, random.random(len(words)), strict=True) if luck >= share]
    return " ".join(kept or words[:1])
