"""Soups of one task on a toy suite: rows recomputed, resumed, cycles that go on, verdicts."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

import taskloom
from taskloom.cli.main import invoke
from taskloom.errors import IntegrityError, PlanError, UnknownName
from taskloom.evaluation.load import load_task
from taskloom.models.encoder import Encoder
from taskloom.runs.claims import soups
from taskloom.runs.claims.results import Measured, Results, Row, read_results
from taskloom.runs.claims.soups import KINDS, load_one_task, meant_for, models_of, verdicts
from taskloom.runs.claims.stage import lay_ground
from taskloom.runs.claims.suite import suite_names

from .suites import TINY

TASKS = ["digits_parity", "digits_mod3"]
CONTENT = {
    "name": "tiny_soups",
    "title": "Fine-tunes of two digits tasks",
    "base": TINY["base"],
    "limits": TINY["limits"],
    "tasks": TASKS,
    "train": {"steps": 6, "batch_size": 16},
    "learning_rates": [0.003, 0.006, 0.01],
    "orders": 1,
    "cycles": {"steps": 3, "learning_rate": 0.005},
    "seeds": [0],
    "counts": [2, 3],
}
METHODS = ["base", "expert", "average", "greedy_soup", "model_stock", "checkpoint_average"]


def write(path, **changes):
    path.write_text(yaml.safe_dump({**CONTENT, **changes}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soups")
    suite = write(folder / "tiny.yaml")
    return (
        suite,
        folder / "soups.json",
        soups.soups([suite], methods=METHODS, output=folder / "soups.json"),
    )


@pytest.fixture(scope="module")
def ground(done):
    return lay_ground(load_one_task(done[0]).ground(), 0)


def row(results, kind, count, method):
    (found,) = [r for r in results.rows if (r.experts, r.count, r.method) == (kind, count, method)]
    return found


def accuracy(ground, task, weights, split):
    """By another way than the scorer's."""
    data = load_task(task, seed=0, max_train=60, max_validation=40, max_test=60)
    examples = data.test.open("here") if split == "test" else data.validation
    features = Encoder.load(ground.encoder.directory).features(examples.inputs, weights=weights)
    return float(np.mean(ground.heads[task].predict(features) == examples.labels))


def test_every_method_that_is_meant_for_such_models_has_a_row(done):
    _, _, results = done
    found = {(r.experts, r.count, r.method) for r in results.rows}
    assert found == {
        (kind, count, name) for kind in KINDS for count in (2, 3) for name in meant_for(kind, METHODS)
    }
    assert all(set(r.scores) == set(TASKS) for r in results.rows)
    assert {m.n for r in results.rows for m in r.scores.values()} == {60}


def test_a_soup_is_the_merge_of_the_models_of_its_task(done, ground):
    suite, _, results = done
    for data in ground.tasks:
        task, own = data.task.name, models_of(load_one_task(suite), ground, "one task", data)
        paths = [expert.checkpoint for expert in own.stored.experts]
        merged = taskloom.merge(None, paths[:2], "average")
        told = row(results, "one task", 2, "average").scores[task].value
        assert told == pytest.approx(accuracy(ground, task, merged, "test"), abs=1 / 60)
        alone = [accuracy(ground, task, {n: p.read(n) for n in p.tensors}, "validation") for p in paths]
        best = row(results, "one task", 3, "expert").chosen["by task"][task]["expert"]
        assert alone[int(best)] >= max(alone) - 1 / 40
        tried = row(results, "one task", 3, "greedy_soup").chosen["by task"][task]["ingredients"]
        assert set(tried) <= {"0", "1", "2"}


def test_a_cycle_goes_on_from_the_one_before(done, ground):
    suite, _, results = done
    own = models_of(load_one_task(suite), ground, "one run", ground.tasks[0])
    apart = [
        sum(float((e.checkpoint.read(n) - own.pool.base.read(n)).norm() ** 2) for n in own.pool.tensors)
        for e in own.pool.experts
    ]
    assert apart[-1] > apart[0] > 0
    last = own.stored.experts[-1].checkpoint
    task = ground.tasks[0].task.name
    told = row(results, "one run", 3, "expert").scores[task].value
    weights = {name: last.read(name) for name in last.tensors}
    assert told == pytest.approx(accuracy(ground, task, weights, "test"), abs=1 / 60)
    assert row(results, "one run", 3, "expert").chosen["by task"][task] == {"expert": "2"}


def test_measuring_again_measures_nothing(done, monkeypatch):
    suite, path, before = done
    text = path.read_text()

    def never(*_):
        raise AssertionError("a row was measured again")

    monkeypatch.setattr(soups._Soup, "made", never)
    assert soups.soups([suite], methods=METHODS, output=path) == before == read_results(path)
    assert path.read_text() == text


def test_another_suite_of_the_name_is_refused(done, tmp_path):
    _, path, _ = done
    other = write(tmp_path / "other.yaml", learning_rates=[0.004, 0.006, 0.01])
    with pytest.raises(IntegrityError, match=r"the suite .*changed"):
        soups.soups([other], methods=["base"], output=path)


def test_fine_tunes_differ_in_rate_or_order_and_cycles_in_order():
    suite = load_one_task("text_soups")
    seen = [suite.options("one task", seed) for seed in suite.seeds]
    assert len({(o.learning_rate, o.seed) for one in seen for o in one}) == 18
    assert len({o.learning_rate for o in seen[0]}) == 3
    cycles = [o for seed in suite.seeds for o in suite.options("one run", seed)]
    assert len({o.seed for o in cycles}) == 18
    assert {(o.learning_rate, o.steps, o.evaluate_every) for o in cycles} == {(0.0002, 20, 20)}


def made_up(method, values, kind="one task", count=4):
    for seed in (0, 1, 2):
        scores = {f"t{k}": Measured(value=v + 0.001 * seed, n=100) for k, v in enumerate(values)}
        yield Row(
            suite="s", experts=kind, seed=seed, count=count, method=method, options={}, scores=scores
        )


def test_verdicts_are_computed_from_the_largest_soups():
    low, high = (0.5, 0.6, 0.7, 0.55), (0.61, 0.7, 0.82, 0.66)
    rows = [*made_up("expert", low), *made_up("average", high), *made_up("greedy_soup", low)]
    rows += [*made_up("model_stock", low), *made_up("average", low, count=2)]
    found = verdicts(Results(rows=rows))
    words = {method: verdict.word for method, verdict in found.items()}
    assert words == {
        "average": "holds",
        "greedy_soup": "holds",  # no worse by more than a point
        "model_stock": "does not hold here",
        "checkpoint_average": "not measured yet",
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"counts": [2, 4]}, "counts ascend to 3 models at most"),
        ({"counts": [3, 2]}, "counts ascend"),
        ({"train": {"learning_rate": 1}}, "'learning_rate' is decided by the measurement"),
        ({"train": {"stepps": 1}}, "did you mean 'steps'"),
        ({"cycles": {"stepps": 1}}, "did you mean 'steps'"),
        ({"train": {}, "cycles": {}}, "a cycle has steps"),
        ({"tasks": ["digits_party", "digits_mod3"]}, "did you mean 'digits_parity'"),
        ({"snapshots": 3}, "snapshots"),
    ],
)
def test_what_is_refused(tmp_path, changes, said):
    with pytest.raises((PlanError, UnknownName), match=said):
        load_one_task(write(tmp_path / "bad.yaml", **changes))


def test_the_built_in_suite_loads_and_is_none_of_the_others():
    assert load_one_task("text_soups").models == 6
    assert "text_soups" not in suite_names()
    with pytest.raises(UnknownName, match="did you mean 'text_soups'"):
        load_one_task("text_soup")


def test_on_the_command_line(done, capsys):
    suite, path, _ = done
    words = ["--quiet", "bench", "soups", "--suite", str(suite), "-o", str(path)]
    only = [word for name in METHODS for word in ("--only", name)]
    assert invoke([*words, *only]) == 0
    said = capsys.readouterr().out
    assert "18 rows" in said
    assert "checkpoint_average" in said
    assert invoke([*words, "--experts", "full"]) == 2
    assert "--experts" in capsys.readouterr().err
