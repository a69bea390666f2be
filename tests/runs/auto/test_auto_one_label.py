"""taskloom auto where a class has a single label."""

from __future__ import annotations

import numpy as np
import pytest

import taskloom
from taskloom.choose.rank import DEFAULT_SCORES, rank
from taskloom.errors import DataError
from taskloom.evaluation.data import Examples, SealedSplit, TaskData
from taskloom.evaluation.task import Task
from taskloom.runs.auto.ground import halved, lay
from taskloom.runs.auto.looking import PAIRED, usable
from taskloom.runs.plan import Limits

from .conftest import FILLERS, GROUPS, NAMES, write_task

SCORES = [each if isinstance(each, str) else each[0] for each in DEFAULT_SCORES]


def rare(folder, name: str, groups: tuple[int, ...], common: int, few: int) -> str:
    """Write a task whose last class is rare."""
    path = write_task(folder, name, groups, 1)
    rng = np.random.default_rng(3)
    counts = [common] * (len(groups) - 1) + [few]
    rows = []
    for group, count in zip(groups, counts, strict=True):
        for number in range(count):
            words = [*rng.choice(FILLERS, 5), *rng.choice(GROUPS[group], 4), f"no{group}x{number}"]
            rows.append(f"{' '.join(rng.permutation(words))},{NAMES[group]}")
    (folder / f"{name}.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    return path


def data_of(train: list[int], validation: list[int], names: tuple[str, ...]) -> TaskData:
    task = Task(
        name="made",
        title="made",
        description="Made up.",
        source={"kind": "file", "path": "none.csv"},
        columns={"inputs": "text", "label": "label"},
        labels=list(names),
        license={"package": "none", "data": "CC0"},
    )

    def split(labels: list[int]) -> Examples:
        return Examples([f"text {i}" for i in range(len(labels))], np.array(labels))

    test = SealedSplit("made", split([0, 1]))
    return TaskData(task, split(train), split(validation), test, "digest", 0, 0)


@pytest.mark.parametrize("spec", DEFAULT_SCORES, ids=SCORES)
def test_what_is_left_out_is_what_refuses_a_class_of_one(spec):
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(9, 4)), np.array([0, 0, 0, 0, 1, 1, 1, 1, 2])
    name = spec if isinstance(spec, str) else spec[0]
    if name in PAIRED:
        with pytest.raises(DataError, match="at least 2 examples of each class"):
            rank({"a": features}, labels, [spec])
    else:
        assert np.isfinite(rank({"a": features}, labels, [spec])[0].entries[0].value)


def test_all_scores_are_asked_where_every_class_has_two():
    assert usable(DEFAULT_SCORES, np.array([0, 0, 1, 1])) == (list(DEFAULT_SCORES), ())
    kept, without = usable(DEFAULT_SCORES, np.array([0, 0, 1]))
    assert without == ("linear_probe",)
    assert kept == [each for each in DEFAULT_SCORES if each != "linear_probe"]


def test_a_class_of_one_among_those_looked_at_is_no_end(world, tmp_path):
    task = rare(tmp_path, "rare", (0, 1, 2), 90, 4)
    limits = Limits(train=60, validation=60, test=60)
    found = taskloom.auto(
        task, world.base, world.experts, methods=["task_arithmetic"], limits=limits, minutes=10.0,
        output=tmp_path / "out",
    )  # fmt: skip
    assert set(found.ranked) == set(world.experts)
    (note,) = [each for each in found.notes if "linear_probe" in each]
    assert "ranked without linear_probe" in note
    assert note in (tmp_path / "out" / "report.html").read_text()


def test_of_few_labels_a_class_may_have_one(world, tmp_path):
    task = rare(tmp_path, "two", (0, 1), 40, 4)
    limits = Limits(train=24, validation=10, test=20)
    found = taskloom.auto(
        task, world.base, world.experts, methods=["task_arithmetic"], limits=limits, minutes=10.0,
        output=tmp_path / "out",
    )  # fmt: skip
    assert found.regime == "cross-validation"
    assert all("failed" not in row.why for row in found.rows)


@pytest.mark.parametrize("seed", range(3))
def test_a_class_of_one_that_chooses_is_enough(seed):
    data = data_of([0, 0, 0, 0, 1], [0, 0, 0, 0], ("much", "rare"))
    ground = lay(data, seed=seed)
    assert np.unique(ground.examples.labels[ground.fit]).tolist() == [0, 1]


@pytest.mark.parametrize("seed", range(3))
def test_one_class_to_choose_by_is_refused_by_name(seed):
    """Of eight labels four choose and four check; the only one of the second class checks here."""
    data = data_of([0, 0, 0, 0, 0, 1], [0, 0], ("much", "rare"))
    labels = np.array([0, 0, 0, 0, 0, 1, 0, 0])
    assert 5 in halved(labels, np.arange(8), seed)[1]
    with pytest.raises(DataError, match=r"all 4 labels to fit on .* are 'much'"):
        lay(data, seed=seed)
