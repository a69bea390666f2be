"""The grid on tiny models: complete, resumable, honest about failures and test examples."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest

import taskloom
from taskloom.cli.main import invoke
from taskloom.errors import DataError, IntegrityError, PlanError
from taskloom.evaluation.data import SealedSplit
from taskloom.evaluation.load import load_task
from taskloom.learn.head import fit_head
from taskloom.models.encoder import Encoder
from taskloom.runs.transfer import cells, run
from taskloom.runs.transfer.crew import Processes
from taskloom.runs.transfer.ledger import planned, read_matrix
from taskloom.runs.transfer.matrix import grid_of
from taskloom.runs.transfer.plan import load_transfer_plan
from taskloom.runs.transfer.run import transfer
from taskloom.runs.transfer.source import source_expert
from taskloom.runs.transfer.target import without_dead
from taskloom.store.cache import cache_root
from taskloom.store.open import open_checkpoint

from .conftest import small

PLACES = 2 * 3 * (1 + 2 + 1 + 1)  # seeds, ways, base and sources of each target


def numbers(matrix):
    return {row.place: (row.test, row.validation, row.failed) for row in matrix.rows}


def test_every_place_of_the_grid_has_one_row_and_a_number(grid):
    places = [row.place for row in grid.matrix.rows]
    assert len(places) == len(set(places)) == PLACES
    assert set(places) == set(planned(grid.matrix.plan, "base"))
    for row in grid.matrix.rows:
        assert row.failed is None
        assert 0 <= row.test <= 1
        assert row.n_test == 50
        assert row.seconds >= 0
        assert (row.steps == 3) == (row.way == "full")


def test_what_is_left_out_is_told(grid):
    assert grid.matrix.plan.left_out == {
        "digits_mod3": {"digits_mod3": "the source is the target itself"}
    }


def test_progress_ends_where_the_work_ends(grid):
    experts = [told for told in grid.heard if told[0] == "small: source experts"]
    done = [told for told in grid.heard if told[0] == "small: cells"]
    assert experts[-1][1:] == (4, 4)
    assert done[-1][1:] == (PLACES, PLACES)


def test_the_lock_knows_data_and_experts_of_every_seed(grid):
    lock = grid.matrix.plan.lock
    assert sorted(lock.seeds) == ["0", "1"]
    for seed in lock.seeds.values():
        assert sorted(seed.data) == ["digits_mod3", "digits_ten"]
        assert sorted(seed.experts) == ["digits_loop", "digits_mod3"]
        assert sorted(seed.facts) == sorted(seed.experts)
        assert all(each.moved > 0 and each.train == 60 for each in seed.facts.values())
    assert lock.seeds["0"].data != lock.seeds["1"].data


def test_a_zero_shot_cell_is_a_head_on_frozen_features_of_the_source(grid):
    """Recomputed by `Encoder.features` on the stored expert, and a head that is fitted anew."""
    plan = load_transfer_plan(small(grid.suite))
    source = source_expert(plan, "digits_mod3", 0)
    data = load_task("digits_ten", seed=0, n_labels=40, max_test=50)
    assert len(data.train.labels) + len(data.validation.labels) == 40
    encoder = Encoder.load(source.directory)
    head = fit_head(
        encoder.features(data.train.inputs), data.train.labels, data.task.label_names, task="t", seed=0
    )
    test = data.test.open("the test of this grid")
    right = head.predict(encoder.features(test.inputs)) == test.labels
    row = grid.matrix.by_place()["zero_shot", "digits_mod3", "digits_ten", 0]
    assert row.test == pytest.approx(right.mean(), abs=0.021)  # one example, where features round


def test_a_head_of_a_target_is_that_of_the_raw_features():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 60)
    features = random.normal(size=(60, 4)).astype(np.float32)
    features[:, 2] = 0.5 + 7e-8 * labels  # tells the classes apart, in the last bits
    names = ("no", "yes")
    raw = fit_head(features, labels, names, task="t")
    own = fit_head(without_dead(features), labels, names, task="t")
    np.testing.assert_allclose(own.weight, raw.weight, atol=1e-6)
    np.testing.assert_allclose(own.predict(features), raw.predict(features))
    assert not own.weight[:, 2].any()
    kept = [0, 1, 3]
    assert (without_dead(features)[:, kept] == features[:, kept]).all()
    assert without_dead(features).dtype == features.dtype


def test_a_merge_is_the_recipe_on_the_source_and_the_targets_own_expert(grid):
    plan = load_transfer_plan(small(grid.suite))
    target = cells.open_target(cells.entered(plan), "digits_ten", 1)
    source = source_expert(plan, "digits_mod3", 1)
    own = cells.own_expert(target)
    assert own.cached
    base, first, second = (
        open_checkpoint(each) for each in (target.base.directory, source.directory, own.directory)
    )
    merged = {
        name: base.read(name) + 0.5 * (first.read(name) + second.read(name) - 2 * base.read(name))
        for name in base.tensors
    }
    row = grid.matrix.by_place()["merge", "digits_mod3", "digits_ten", 1]
    head = target.head(target.base)
    assert row.test == pytest.approx(target.test(merged, head), abs=0.021)
    alone = grid.matrix.by_place()["merge", "base", "digits_ten", 1]
    tuned = grid.matrix.by_place()["full", "base", "digits_ten", 1]
    assert alone.test == tuned.test


def test_cells_leave_nothing_behind_but_the_targets_own_experts(grid):
    left = cache_root() / "transfer" / "cells"
    assert not left.exists() or not any(left.iterdir())


def test_gains_are_over_the_base_of_the_same_seed(grid):
    found, rows = grid_of(grid.matrix, "full"), grid.matrix.by_place()
    assert found.sources == ("digits_mod3", "digits_loop")
    for k, seed in enumerate((0, 1)):
        for s, source in enumerate(found.sources):
            for t, target in enumerate(found.targets):
                if source == target:
                    assert np.isnan(found.gains[k, s, t])
                    continue
                gain = rows["full", source, target, seed].test - rows["full", "base", target, seed].test
                assert found.gains[k, s, t] == pytest.approx(gain)
    assert np.isnan(found.gain[0, 1])
    assert found.gain[0, 0] == pytest.approx(found.gains[:, 0, 0].mean())
    relative = found.gains[0, 0, 0] / found.alone[0, 0]
    assert found.change[0, 0, 0] == pytest.approx(relative)


def test_a_second_run_measures_nothing(grid, monkeypatch):
    for name in ("measure", "prepare"):
        monkeypatch.setattr(run, name, lambda *_: pytest.fail("something was measured"))
    assert transfer(small(grid.suite), output=grid.output).rows == grid.matrix.rows


def test_an_interrupted_run_goes_on_and_ends_the_same(grid, tmp_path, monkeypatch):
    output, plan = tmp_path / "matrix.json", small(grid.suite)
    kept, real = [], run._Run._keep

    def keep(self, outcome):
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(outcome)
        real(self, outcome)

    monkeypatch.setattr(run._Run, "_keep", keep)
    with pytest.raises(KeyboardInterrupt):
        transfer(plan, output=output, seeds=[0])
    assert len(read_matrix(output).rows) == 6
    monkeypatch.undo()
    measured = []
    monkeypatch.setattr(run, "measure", lambda *job: measured.append(job) or cells.measure(*job))
    found = transfer(plan, output=output, seeds=[0])
    assert numbers(found) == {p: each for p, each in numbers(grid.matrix).items() if p[3] == 0}
    assert len(measured) == 3


def test_parts_of_the_grid_add_up(grid, tmp_path):
    output, plan = tmp_path / "matrix.json", small(grid.suite)
    first = transfer(plan, output=output, seeds=[0], targets=["digits_ten"], sources=["digits_loop"])
    assert {row.place[1:] for row in first.rows} == {
        ("base", "digits_ten", 0), ("digits_loop", "digits_ten", 0),
    }  # fmt: skip
    assert numbers(first).items() <= numbers(grid.matrix).items()
    for name, value in (("seeds", [7]), ("targets", ["digits_loop"]), ("sources", ["digits_ten"])):
        with pytest.raises(PlanError, match=f"has no {name[:-1]} {value[0]!r}"):
            transfer(plan, output=output, **{name: value})


def test_a_failing_cell_is_a_row_that_says_why_and_can_be_tried_again(grid, tmp_path, monkeypatch):
    output, plan = tmp_path / "matrix.json", small(grid.suite, ways={"zero_shot": {}})
    real = cells._WAYS["zero_shot"]

    def broken(target, start):
        if start.name == "digits_loop":
            raise DataError("the lamp is broken", hint="Mend it")
        if start.name == "digits_mod3" and target.seed == 1:
            raise KeyError("w")
        return real(target, start)

    monkeypatch.setitem(cells._WAYS, "zero_shot", broken)
    found = transfer(plan, output=output, targets=["digits_ten"])
    assert {row.place: row.failed for row in found.rows if row.failed} == {
        ("zero_shot", "digits_loop", "digits_ten", 0): "the lamp is broken. Mend it",
        ("zero_shot", "digits_loop", "digits_ten", 1): "the lamp is broken. Mend it",
        ("zero_shot", "digits_mod3", "digits_ten", 1): "unexpected KeyError: 'w'",
    }
    monkeypatch.undo()
    assert transfer(plan, output=output, targets=["digits_ten"]) == found
    mended = transfer(plan, output=output, targets=["digits_ten"], retry=True)
    assert not [row for row in mended.rows if row.failed]
    assert numbers(mended).items() <= numbers(grid.matrix).items()


def test_a_source_that_cannot_be_trained_fails_its_cells_and_no_others(grid, tmp_path, monkeypatch):
    real = cells.source_expert

    def broken(plan, source, seed):
        if source == "digits_loop":
            raise DataError("the data are gone")
        return real(plan, source, seed)

    monkeypatch.setattr(cells, "source_expert", broken)
    plan = small(grid.suite, ways={"zero_shot": {}})
    found = transfer(plan, output=tmp_path / "matrix.json", seeds=[0], targets=["digits_ten"])
    assert {row.source: row.failed for row in found.rows} == {
        "base": None,
        "digits_mod3": None,
        "digits_loop": "the source's expert: the data are gone",
    }


def test_test_examples_are_opened_once_for_all_cells_of_a_target_and_seed(grid, tmp_path, monkeypatch):
    opened, real = [], SealedSplit.open
    monkeypatch.setattr(
        SealedSplit, "open", lambda self, reader: opened.append(reader) or real(self, reader)
    )
    transfer(small(grid.suite), output=tmp_path / "matrix.json", seeds=[0], targets=["digits_ten"])
    assert opened == ["transfer"]


def test_other_options_do_not_go_into_the_same_file(grid):
    with pytest.raises(IntegrityError, match="the plan changed"):
        transfer(small(grid.suite, labels=44), output=grid.output)
    ways = {**small(grid.suite)["ways"], "merge": {"method": "average"}}
    with pytest.raises(IntegrityError, match="the way merge changed"):
        transfer(small(grid.suite, ways=ways), output=grid.output)


def test_adapters_are_tried_and_serve_as_sources(tmp_path):
    from ..claims.suites import text_suite

    suite = text_suite(tmp_path)
    first, second, third = (str(tmp_path / f"{n}.yaml") for n in ("first", "second", "third"))
    plan = {
        "name": "words", "title": "Adapters", "targets": [third], "labels": 24, "test": 20,
        "sources": {"suite": str(suite), "experts": "lora", "only": ["first", "second"]},
        "ways": {"lora": {"steps": 2, "batch_size": 8, "lora_rank": 2}, "zero_shot": {}}, "seeds": [0],
    }  # fmt: skip
    found = transfer(plan, output=tmp_path / "matrix.json")
    assert not [row.failed for row in found.rows if row.failed]
    assert len(found.rows) == 2 * 3
    assert first != second


def test_one_line_calls_and_the_command_line(grid, tmp_path, capsys):
    import yaml

    path, output = tmp_path / "plan.yaml", tmp_path / "matrix.json"
    path.write_text(yaml.safe_dump(small(grid.suite)), encoding="utf-8")
    shutil.copy(grid.output, output)
    assert taskloom.transfer(path, output=output).rows == grid.matrix.rows
    assert invoke(["--quiet", "transfer", str(path), "-o", str(output)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "full: points of test accuracy gained over the base" in said
    assert f"{PLACES} rows, 0 of them without a number" in said
    assert invoke(["--quiet", "transfer", str(path), "-o", str(output), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == PLACES
    assert invoke(["transfer", str(path), "-o", str(output), "--seed", "9"]) == 2
    assert "has no seed 9" in capsys.readouterr().err


def test_workers_or_a_cluster_but_not_both():
    with pytest.raises(PlanError, match="one worker or more, or a cluster"):
        transfer("text", workers=2, ray="local")
    with pytest.raises(PlanError, match="one worker or more"):
        transfer("text", workers=0)


def test_processes_do_every_job_and_jobs_can_be_sent(grid):
    plan = load_transfer_plan(small(grid.suite))
    source = source_expert(plan, "digits_loop", 0)
    job = (plan, "digits_ten", 0, "digits_loop", ["zero_shot"], source)
    sent = pickle.loads(pickle.dumps(job))
    assert sent == job
    outcome = cells.measure(*sent)
    assert pickle.loads(pickle.dumps(outcome)) == outcome
    assert outcome.rows[0].test == grid.matrix.by_place()[outcome.rows[0].place].test
    assert sorted(Processes(2).each(max, [(1, 2), (4, 3), (5, 5)])) == [(0, 2), (1, 4), (2, 5)]


def test_a_process_that_is_ended_from_outside_says_what_to_do(monkeypatch):
    from concurrent.futures import Future
    from concurrent.futures.process import BrokenProcessPool

    from taskloom.merging.crew import CrewLost
    from taskloom.runs.transfer import crew

    class Gone:
        def __init__(self, *_):
            pass

        def submit(self, *_):
            future: Future[None] = Future()
            future.set_exception(BrokenProcessPool("gone"))
            return future

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(crew, "ProcessPoolExecutor", Gone)
    with pytest.raises(CrewLost, match="The same command goes on"):
        list(Processes(2).each(max, [(1, 2)]))
