"""The whole measurement on the tiny suite: complete, resumable, honest about test and validation."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter

import numpy as np
import pytest

import taskloom
from taskloom import registry
from taskloom.errors import IntegrityError, PlanError, UnknownName
from taskloom.evaluation.data import SealedSplit
from taskloom.evaluation.load import load_task
from taskloom.learn.head import fit_head
from taskloom.runs.claims import measure, run
from taskloom.runs.claims.results import read_results
from taskloom.runs.claims.run import Wanted, claims, train
from taskloom.runs.claims.scorer import Scorer
from taskloom.runs.claims.stage import lay_ground, set_stage
from taskloom.runs.claims.suite import SCALES, load_suite

from .conftest import PAIR
from .suites import TINY, write_suite

FEW = ["base", "expert", "average", "slerp", "task_arithmetic", "ties"]
SMALL = Wanted(seeds=[0], kinds=["full"], counts=[2], methods=FEW)


def by_method(results):
    return {row.method: row for row in results.rows}


@pytest.fixture(scope="module")
def stage(finished):
    return set_stage(lay_ground(load_suite(finished.suite), 0), "full", 4)


def test_every_registered_method_has_a_row_and_so_have_base_and_experts(finished):
    names = [row.method for row in finished.results.rows]
    assert names == ["base", "expert", *(entry.name for entry in registry.entries("merge"))]
    for row in finished.results.rows:
        assert (row.suite, row.experts, row.seed, row.count) == ("tiny", "full", 0, 2)
        if row.failed is None:
            assert list(row.scores) == TINY["tasks"][:2]
            assert all(score.n == 60 for score in row.scores.values())
            assert row.seconds >= 0
            assert row.stored_bytes > 0
            assert "scale" not in row.options


def test_what_has_no_rule_for_the_pool_says_so_in_one_sentence_without_paths(finished):
    failed = {row.method: row.failed for row in finished.results.rows if row.failed}
    assert failed == {
        "copa_merging": "copa_merging merges the factors of LoRA adapters, and these are full "
        "fine-tunes",
        "lorahub": "lorahub merges the factors of LoRA adapters, and these are full fine-tunes",
        "nearswap": "nearswap is defined for 1 expert, and this pool has 2",
        "task_analogy": "task_analogy is defined for 3 experts, and this pool has 2",
    }


def test_whoever_has_a_scale_had_it_chosen_and_nobody_else(finished):
    for row in finished.results.rows:
        if row.method in ("base", "expert") or row.failed:
            assert row.chosen == {}
            continue
        fields = registry.get("merge", row.method).schema.model_fields
        assert ("scale" in row.chosen) == ("scale" in fields), row.method
        assert row.chosen.get("scale", 0.1) in SCALES
        assert ("ingredients" in row.chosen) == (row.method == "greedy_soup")
        assert set(row.options) == set(fields) - {"scale", "task", "ingredients"}


def test_the_chosen_scale_is_the_best_on_validation_when_recomputed(finished, stage):
    """Merged from the stored directories, run through `Encoder.features`, under heads fitted anew."""
    ground, names = stage.ground, TINY["tasks"][:2]
    encoder, base = ground.encoder, stage.stored.base.path
    paths = [expert.checkpoint.path for expert in stage.stored.experts[:2]]
    tasks = [load_task(n, seed=0, max_train=60, max_validation=40, max_test=60) for n in names]
    heads = [
        fit_head(encoder.features(t.train.inputs), t.train.labels, t.task.label_names, task=n, seed=0)
        for t, n in zip(tasks, names, strict=True)
    ]

    def accuracy(weights, index):
        found = encoder.features(
            tasks[index].validation.inputs, weights=weights, precision="bf16", batch_size=64
        )
        return np.mean(heads[index].predict(found) == tasks[index].validation.labels)

    experts = [accuracy(e.checkpoint_weights(), i) for i, e in enumerate(map(_Whole, paths))]
    rows = by_method(finished.results)
    for method in ("task_arithmetic", "magnitude_pruning", "ties", "della", "iso_c"):
        entry = registry.get("merge", method)
        seeded = {"seed": 0} if "seed" in entry.schema.model_fields else {}
        means = []
        for scale in SCALES:
            merged = taskloom.merge(str(base), [str(p) for p in paths], method, names=names,
                                    scale=scale, **seeded)  # fmt: skip
            means.append(np.mean([accuracy(merged, i) / experts[i] for i in range(2)]))
        best = SCALES[int(np.argmax(np.round(means, 9)))]
        assert rows[method].chosen["scale"] == best, (method, means)


class _Whole:
    def __init__(self, path):
        self.path = path

    def checkpoint_weights(self):
        from safetensors.torch import load_file

        return load_file(self.path / "model.safetensors")


def test_test_scores_are_those_of_the_merged_directory(finished, stage, tmp_path):
    """An average written to disk and scored by `taskloom.evaluate`'s parts gives the row's numbers."""
    base, names = stage.stored.base.path, TINY["tasks"][:2]
    paths = [str(expert.checkpoint.path) for expert in stage.stored.experts[:2]]
    taskloom.merge_files(str(base), paths, "average", tmp_path / "out", names=names)
    encoder = stage.ground.encoder
    from safetensors.torch import load_file

    weights = load_file(tmp_path / "out" / "model.safetensors")
    row = by_method(finished.results)["average"]
    for name in names:
        test = load_task(name, seed=0, max_train=60, max_validation=40, max_test=60).test.open("check")
        found = stage.ground.heads[name].predict(encoder.features(test.inputs, weights=weights))
        assert row.scores[name].value == pytest.approx(np.mean(found == test.labels), abs=1 / 60 + 1e-9)
    assert row.stored_bytes == sum(
        t.numel() * t.element_size() for t in load_file(base / "model.safetensors").values()
    )


def test_experts_are_scored_on_their_own_task_and_take_the_room_of_all(finished, stage):
    row, ground = by_method(finished.results)["expert"], stage.ground
    for name, expert in zip(TINY["tasks"][:2], stage.stored.experts[:2], strict=True):
        test = load_task(name, seed=0, max_train=60, max_validation=40, max_test=60).test.open("check")
        weights = _Whole(expert.checkpoint.path).checkpoint_weights()
        found = ground.heads[name].predict(ground.encoder.features(test.inputs, weights=weights))
        assert row.scores[name].value == pytest.approx(np.mean(found == test.labels), abs=1 / 60 + 1e-9)
    assert row.stored_bytes == 2 * by_method(finished.results)["base"].stored_bytes


def test_parts_take_less_room_than_experts_of_a_large_pool_and_more_than_one_model(finished):
    rows = by_method(finished.results)
    for method in ("emr", "tall_masks", "twin_merging"):
        assert rows[method].stored_bytes > rows["base"].stored_bytes


def test_measuring_again_changes_no_byte_and_measures_nothing(finished, monkeypatch):
    before = finished.output.read_bytes()
    monkeypatch.setattr(measure.Measurer, "row", lambda *_: pytest.fail("measured again"))
    claims([finished.suite], PAIR, output=finished.output)
    assert finished.output.read_bytes() == before


def test_an_interrupted_run_goes_on_to_the_same_rows(finished, tmp_path, monkeypatch):
    output, real, done = tmp_path / "claims.json", measure.Measurer.row, []

    def row(self, method, count):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(method)
        return real(self, method, count)

    monkeypatch.setattr(measure.Measurer, "row", row)
    with pytest.raises(KeyboardInterrupt):
        claims([finished.suite], SMALL, output=output)
    assert [r.method for r in read_results(output).rows] == FEW[:3]
    monkeypatch.setattr(measure.Measurer, "row", real)
    again = claims([finished.suite], SMALL, output=output)
    whole = by_method(finished.results)
    assert [r.method for r in again.rows] == FEW
    for found in again.rows:
        clock = {"seconds": None}
        assert found.model_copy(update=clock) == whole[found.method].model_copy(update=clock)


def test_each_test_split_is_opened_once_and_scored_once_per_row(finished, tmp_path, monkeypatch):
    opened, scored = Counter(), Counter()
    real_open, real_test = SealedSplit.open, Scorer.test
    monkeypatch.setattr(
        SealedSplit, "open", lambda self, who: opened.update([self._task]) or real_open(self, who)
    )
    monkeypatch.setattr(
        Scorer, "test", lambda self, task, w: scored.update([task]) or real_test(self, task, w)
    )
    claims([finished.suite], SMALL, output=tmp_path / "claims.json")
    assert opened == dict.fromkeys(TINY["tasks"][:2], 1)
    assert scored == dict.fromkeys(TINY["tasks"][:2], len(FEW))


def test_nothing_is_chosen_on_test(stage, monkeypatch):
    ground = stage.ground
    scorer = Scorer(ground.encoder, ground.tasks, ground.heads, ground.suite.evaluation)
    order = []
    for split in ("validation", "test"):
        real = getattr(Scorer, split)
        monkeypatch.setattr(
            Scorer, split, lambda s, t, w, split=split, real=real: order.append(split) or real(s, t, w)
        )
    measure.Measurer(stage, scorer).row("task_arithmetic", 2)
    assert order[-2:] == ["test", "test"]
    assert "test" not in order[:-2]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"limits": {"train": 60, "validation": 40, "test": 59}}, "the suite"),
        ({"evaluation": {"batch_size": 20}}, "the suite"),
    ],
)
def test_a_changed_suite_is_refused(finished, tmp_path, changes, named):
    output = tmp_path / "claims.json"
    shutil.copy(finished.output, output)
    changed = write_suite(tmp_path / "tiny.yaml", **changes)
    with pytest.raises(IntegrityError, match=rf"{named}.* changed since .*--output"):
        claims([changed], SMALL, output=output)
    assert output.read_bytes() == finished.output.read_bytes()


def test_changed_defaults_of_a_method_are_refused(finished, tmp_path):
    output = tmp_path / "claims.json"
    text = finished.output.read_text(encoding="utf-8")
    table = json.loads(text)
    (ties,) = [row for row in table["rows"] if row["method"] == "ties"]
    ties["options"]["density"] = 0.7
    output.write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"ties on 2 experts .* measured with another density"):
        claims([finished.suite], SMALL, output=output)


def test_the_lock_says_what_was_measured_with_what(finished, stage):
    lock = finished.results.suites["tiny"].lock
    assert lock.suite == load_suite(finished.suite).digest
    assert lock.base == stage.ground.encoder.digest()
    assert list(lock.seeds) == ["0"]
    assert lock.seeds["0"].experts["full"] == {
        e.name: e.checkpoint.digest() for e in stage.stored.experts[:2]
    }
    assert list(lock.seeds["0"].data) == TINY["tasks"]
    assert {"torch", "numpy", "taskloom", "python"} <= set(lock.versions)
    assert "processors" in lock.machine
    assert all(re.fullmatch(r"[0-9a-f]{12}\+?", commit) for commit in lock.commits)


def test_what_is_wrong_is_refused_before_anything_is_trained(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "lay_ground", lambda *_, **__: pytest.fail("work was begun"))
    output = tmp_path / "claims.json"
    with pytest.raises(PlanError, match=r"a pool of 9 tasks is wanted of suite 'tiny'. It has 4"):
        claims([finished.suite], Wanted(counts=[9]), output=output)
    with pytest.raises(UnknownName, match="unknown merging method 'tise': did you mean 'ties'"):
        claims([finished.suite], Wanted(methods=["tise"]), output=output)
    only_full = write_suite(tmp_path / "s.yaml", experts={"full": {}})
    with pytest.raises(PlanError, match="has no experts 'lora'"):
        claims([finished.suite, only_full], Wanted(kinds=["lora"]), output=output)
    output.write_text("not json", encoding="utf-8")
    with pytest.raises(Exception, match="expected a results file"):
        claims([finished.suite], SMALL, output=output)


def test_training_alone_finds_the_experts_and_measures_nothing(finished, monkeypatch):
    monkeypatch.setattr(measure.Measurer, "row", lambda *_: pytest.fail("measured"))
    (found,) = train([finished.suite], SMALL)
    assert (found.suite, found.kind, found.seed) == ("tiny", "full", 0)
    assert [expert.head.task for expert in found.experts] == TINY["tasks"][:2], "no more than merged"
    assert all(expert.cached for expert in found.experts)
