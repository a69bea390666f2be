"""taskloom soup: greedy and rewarded, tasted on validation with the small plan's experts."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

import taskloom
from taskloom.errors import OutputError, PlanError, UnknownName
from taskloom.evaluation.data import SealedSplit
from taskloom.evaluation.load import load_task
from taskloom.models.encoder import Encoder
from taskloom.runs import soup as souping
from taskloom.runs.desk import open_desk
from taskloom.runs.plan import Limits
from taskloom.runs.soup import Taster, soup
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

from .conftest import MICRO, temporaries

LIMITS = Limits(**MICRO["limits"])
TASKS = list(MICRO["pool"])


@pytest.fixture
def named(experts):
    return dict(zip(("parity", "mod3"), experts, strict=True))


@pytest.fixture(autouse=True)
def sealed(monkeypatch):
    def opened(self, reader):
        raise AssertionError(f"{reader} opened the test split")

    monkeypatch.setattr(SealedSplit, "open", opened)


def measured(base, weights, task):
    """Accuracy on validation, by another way than the soup's."""
    desk = open_desk(base, seed=0, progress=lambda *_: None)
    data = load_task(task, seed=0, max_train=60, max_validation=40, max_test=60)
    features = Encoder.load(base).features(data.validation.inputs, weights=weights)
    predicted = desk.head(data).predict(features)
    return float(np.mean(predicted == data.validation.labels))


def read(path):
    checkpoint = SafetensorsCheckpoint(path)
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


def test_a_greedy_soup_logs_what_it_tried(base, named, tmp_path):
    found = soup("greedy", TASKS, base, named, limits=LIMITS, output=tmp_path / "soup", guard=None)
    assert (found.kind, found.experts, found.tasks) == ("greedy", ("parity", "mod3"), tuple(TASKS))
    first, second, both = found.tasted
    assert first.value >= second.value
    assert [first.kept, second.kept] == [True, False]
    assert both.weights == {"parity": 0.5, "mod3": 0.5}
    assert both.kept == (both.value >= first.value)
    assert found.chosen == (both if both.kept else first)
    for row in found.tasted:
        assert row.value == pytest.approx(np.mean([s.value for s in row.scores]))
        assert row.low < row.value < row.high
        assert [(s.split, s.n, s.task) for s in row.scores] == [("validation", 40, t) for t in TASKS]
    weights = {name: read(path) for name, path in named.items()}
    alone = next(name for name, weight in first.weights.items() if weight == 1.0)
    for s in first.scores:
        assert s.value == measured(base, weights[alone], s.task)
    chosen = [name for name, weight in found.chosen.weights.items() if weight]
    wanted = taskloom.merge(base, named, "greedy_soup", ingredients=chosen)
    written = read(found.path)
    assert all(np.array_equal(written[n].numpy(), t.numpy()) for n, t in wanted.items())
    record = json.loads((found.path / "taskloom.json").read_text())
    assert record["recipe"]["options"]["ingredients"] == chosen


def test_equal_experts_are_kept_unless_the_mean_must_rise(base, named):
    twins = {"one": named["mod3"], "two": named["mod3"]}
    loose = soup("greedy", TASKS[:1], base, twins, limits=LIMITS, guard=None)
    strict = soup("greedy", TASKS[:1], base, twins, limits=LIMITS, ties=False, guard=None)
    assert loose.chosen.weights == {"one": 0.5, "two": 0.5}
    assert strict.chosen.weights == {"one": 1.0, "two": 0.0}
    assert [row.kept for row in strict.tasted] == [True, False, False]


def test_a_rewarded_soup_scores_the_grid(base, named, tmp_path):
    found = soup(
        "rewarded",
        TASKS,
        base,
        named,
        levels=5,
        limits=LIMITS,
        preference={TASKS[0]: 3, TASKS[1]: 1},
        output=tmp_path / "soup",
        picture=tmp_path / "front.png",
        guard=None,
    )
    assert [row.weights["mod3"] for row in found.tasted] == [0.0, 0.25, 0.5, 0.75, 1.0]
    points = [[s.value for s in row.scores] for row in found.tasted]
    for row, point in zip(found.tasted, points, strict=True):
        beaten = any(
            all(a >= b for a, b in zip(other, point, strict=True)) and other != point for other in points
        )
        assert row.kept == (not beaten)
    weights = {name: read(path) for name, path in named.items()}
    middle = {n: (weights["parity"][n] + t) / 2 for n, t in weights["mod3"].items()}
    for s in found.tasted[2].scores:
        assert s.value == measured(base, middle, s.task)
    gains = [3 * one + two for one, two in points]
    assert found.chosen is found.tasted[gains.index(max(gains))]
    wanted = taskloom.merge(base, named, "rewarded_soup", preference=found.chosen.weights)
    written = read(found.path)
    assert all(np.array_equal(written[n].numpy(), t.numpy()) for n, t in wanted.items())
    assert (tmp_path / "front.png").read_bytes()[:4] == b"\x89PNG"
    taskloom.verify(found.path, everything=True)


def test_the_sweep_alone_chooses_nothing(base, named):
    found = soup("rewarded", TASKS, base, named, levels=2, limits=LIMITS)
    assert (found.chosen, found.path, found.picture) == (None, None, None)
    assert len(found.tasted) == 2


@pytest.mark.parametrize(
    ("kind", "tasks", "options", "message"),
    [
        ("brown", TASKS, {}, "there is no soup 'brown'"),
        ("greedy", [], {}, "there is none"),
        ("greedy", [TASKS[0], TASKS[0]], {}, "is named twice"),
        ("greedy", TASKS, {"preference": {TASKS[0]: 1}}, "belong to a rewarded soup"),
        ("rewarded", TASKS, {"preference": {"x": 1}}, "the preference names 'x'"),
        ("rewarded", TASKS, {"preference": {TASKS[0]: -1}}, "a weight >= 0 is needed"),
        ("rewarded", TASKS, {"preference": {TASKS[0]: 0}}, "gives no task any weight"),
        ("rewarded", TASKS, {"output": "soup"}, "many models until a preference chooses one"),
        ("rewarded", TASKS[:1], {"picture": "f.png"}, "drawn over two tasks"),
        ("rewarded", TASKS, {"picture": "f.pdf"}, r"ends with \.png or \.svg"),
        ("rewarded", TASKS, {"levels": 1}, "2 levels"),
    ],
)
def test_what_cannot_be_is_refused(base, named, tmp_path, monkeypatch, kind, tasks, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlanError, match=message):
        soup(kind, tasks, base, named, limits=LIMITS, **options)
    assert not list(tmp_path.iterdir())


def test_other_refusals(base, named, tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'digits_ten'"):
        soup("greedy", ["digits_tne"], base, named)
    with pytest.raises(PlanError, match="two experts or more"):
        soup("greedy", TASKS, base, {"one": named["mod3"]}, limits=LIMITS)
    (tmp_path / "soup").mkdir()
    (tmp_path / "soup" / "mine").touch()
    with pytest.raises(OutputError, match="exists"):
        soup("greedy", TASKS, base, named, output=tmp_path / "soup")


def test_on_the_command_line(cli, base, named, tmp_path):
    words = ["--base", base, *(f"--expert={name}={path}" for name, path in named.items())]
    words += [*(f"--task={task}" for task in TASKS), "--guard=off"]
    status, out, err = cli("soup", "greedy", *words)
    assert status == 0, err
    assert "Soups in the order in which they were tasted" in out
    assert "chosen: " in out
    assert "not held against rivals: no guard was asked for" in out
    status, out, err = cli(
        "soup", "rewarded", *words, "--levels", "3", "--picture", tmp_path / "f.svg",
        "--table", tmp_path / "f.csv", "--prefer", f"{TASKS[0]}=1", "-o", tmp_path / "m",
    )  # fmt: skip
    assert status == 0, err
    assert "of 3 mixtures, the others are beaten" in out
    rows = list(csv.DictReader((tmp_path / "f.csv").read_text().splitlines()))
    assert [row["weight parity"] for row in rows] == ["1.0", "0.5", "0.0"]
    assert (tmp_path / "f.svg").read_text().startswith("<svg")
    assert (tmp_path / "m" / "model.safetensors").is_file()
    status, out, err = cli("soup", "rewarded", *words, "--levels", "2", "--json")
    assert [row["kept"] for row in json.loads(out)["tasted"]].count(True) >= 1
    for word in ("digits_mod3", "=1", "digits_mod3=x"):
        status, out, err = cli("soup", "rewarded", *words, "--prefer", word)
        assert (status, err.count("\n")) == (2, 1)
        assert "is not TASK=WEIGHT" in err
    assert not temporaries(tmp_path)


@pytest.mark.parametrize(
    ("kind", "more"), [("greedy", {}), ("rewarded", {"levels": 3, "preference": {TASKS[0]: 1}})]
)
def test_what_judges_a_soup_chose_nothing(base, named, tmp_path, monkeypatch, kind, more):
    chose, judged = {}, {}
    score, guarded = Taster.score, souping.guard_composition

    def tasting(self, weights, data):
        chose[data.task.name] = data.validation
        return score(self, weights, data)

    def guarding(dealt, compositions, **given):
        (held,) = dealt.held
        judged.update(held.examples)
        return guarded(dealt, compositions, **given)

    monkeypatch.setattr(Taster, "score", tasting)
    monkeypatch.setattr(souping, "guard_composition", guarding)
    found = soup(kind, TASKS, base, named, limits=LIMITS, output=tmp_path / "out", tuned=False, **more)
    assert set(chose) == set(judged) == set(TASKS)
    for task in TASKS:
        data = load_task(task, seed=0, max_train=60, max_validation=40, max_test=60)
        whole = [image.tobytes() for image in data.validation.inputs]
        one, two = ([i.tobytes() for i in each[task].inputs] for each in (chose, judged))
        assert sorted(one + two) == sorted(whole)
        assert len(one) == len(two) == 20
        for label in np.unique(data.validation.labels):
            counts = [int(np.sum(each[task].labels == label)) for each in (chose, judged)]
            assert abs(counts[0] - counts[1]) <= 1
    assert {s.n for row in found.tasted for s in row.scores} == {20}
    verdict = found.verdict
    assert set(verdict.values) == {"base", "parity", "mod3", "average", "soup"}
    assert verdict.absent == {"fine-tune": "it was not asked for"}
    assert verdict.mode == "warn"
    assert verdict.winner == "soup"
    written = read(found.path)
    chosen = {name: weight for name, weight in found.chosen.weights.items() if weight}
    options = {"ingredients": list(chosen)} if kind == "greedy" else {"preference": found.chosen.weights}
    wanted = taskloom.merge(base, named, f"{kind}_soup", **options)
    assert all(np.array_equal(written[n].numpy(), tensor.numpy()) for n, tensor in wanted.items())
    assert json.loads((found.path / "taskloom.json").read_text())["guard"]["winner"] == "soup"
    assert "## Why this model" in (found.path / "README.md").read_text()
    taskloom.verify(found.path)


def test_a_soup_of_one_expert_is_no_better_than_that_expert(base, named, tmp_path):
    """Equal scores go to the simpler model, so that a strict guard never writes such a soup."""
    twins = {"one": named["mod3"], "two": named["mod3"]}
    found = soup(
        "greedy", TASKS[1:], base, twins, limits=LIMITS, ties=False, guard="strict", tune={"steps": 1},
        output=tmp_path / "out",
    )  # fmt: skip
    assert found.chosen.weights == {"one": 1.0, "two": 0.0}
    assert found.verdict.values["soup"] == found.verdict.values["one"]
    assert found.verdict.winner in ("base", "one", "fine-tune")
    record = json.loads((found.path / "taskloom.json").read_text())
    assert (record["kind"], record["model"]) == ("guarded", found.verdict.winner)


def test_where_labels_are_few_all_of_them_choose(base, named):
    few = Limits(train=20, validation=16, test=20)
    found = soup("greedy", TASKS[:1], base, named, limits=few)
    assert found.verdict is None
    assert "fewer than 20 labels a class" in found.unjudged
    assert {s.n for row in found.tasted for s in row.scores} == {16}


@pytest.mark.parametrize("taken", ["base", "average", "fine-tune", "soup"])
def test_an_expert_is_not_called_as_a_rival(base, named, taken):
    experts = {taken: named["mod3"], "two": named["parity"]}
    with pytest.raises(PlanError, match=f"an expert is called '{taken}'"):
        soup("greedy", TASKS[:1], base, experts, limits=LIMITS)


def test_the_verdict_is_told(cli, base, named, tmp_path):
    words = ["--base", base, *(f"--expert={name}={path}" for name, path in named.items())]
    status, out, err = cli("soup", "greedy", *words, f"--task={TASKS[0]}", "--no-fine-tune")
    assert status == 0, err
    assert "The chosen soup minus each rival, on examples that chose nothing" in " ".join(out.split())
    assert "fine-tune was not tried: it was not asked for" in out
