"""A run from plan to handed-over model, and what a second run may and may not reuse."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file

from taskloom.errors import OutputError
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head, head_names
from taskloom.runs import pipeline
from taskloom.runs.pipeline import run
from taskloom.runs.result import RunResult
from taskloom.runs.show import load_result, report
from taskloom.runs.workspace import numeric_versions
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

from .conftest import MICRO, facts, plan_with, temporaries, write_plan

MODELS = ["base", "expert:digits_parity", "expert:digits_mod3", "average", "task_arithmetic", "ties"]


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with inode and time of its last change."""
    return {
        str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_file()
    }


# --- what a run leaves ------------------------------------------------------------------------


def test_the_run_folder_is_complete(micro):
    assert RunResult.model_validate_json((micro.folder / "result.json").read_bytes()) == micro.result
    lock = json.loads((micro.folder / "lock.json").read_text())
    assert lock == micro.result.lock.model_dump(mode="json")
    assert yaml.safe_load((micro.folder / "plan.yaml").read_text())["name"] == "micro"
    assert (micro.folder / "report.html").stat().st_size > 10_000
    assert not temporaries(micro.folder)


def test_every_model_is_scored_on_every_task_with_n_and_interval(micro):
    result = micro.result
    assert [m.name for m in result.models] == MODELS
    seen = {(s.model, s.task, s.split) for s in result.scores}
    assert len(seen) == len(result.scores)
    pool = [(m, t, s) for m in MODELS for t in MICRO["pool"] for s in ("validation", "test")]
    few = [(m, "digits_ten", s) for m in MODELS for s in ("cross-validation", "test")]
    assert seen == {*pool, *few}
    for s in result.scores:
        assert 0 <= s.low <= s.value <= s.high <= 1
        assert s.n == {"validation": 40, "test": 60, "cross-validation": 40}[s.split]


def test_labels_are_counted_honestly(micro):
    (target,) = micro.result.targets
    (task,) = [t for t in micro.result.tasks if t.role == "target"]
    assert target.n_labels == task.n_train + task.n_validation == 40
    assert f"with {target.n_labels} labels" in target.sentence


def test_nothing_is_chosen_on_test(micro):
    """Every choice can be made again from validation and the few labels alone."""
    result = micro.result
    means = {
        m: np.mean([s.value for s in result.scores if s.model == m and s.split == "validation"])
        for m in MODELS
    }
    held = {s.model: s.value for s in result.scores if s.split == "cross-validation"}
    for guard, values in zip(result.guards, (means, held), strict=True):
        singles = {m: values[m] for m in MODELS[:3]}
        merges = {m: values[m] for m in MODELS[3:]}
        best_single, best_merge = max(singles, key=singles.get), max(merges, key=merges.get)
        wins = merges[best_merge] > singles[best_single]
        assert guard.winner == (best_merge if wins else best_single)
    for method in ("task_arithmetic", "ties"):
        points = [p for p in result.sweeps if p.method == method]
        (chosen,) = [p for p in points if p.chosen]
        assert chosen == max(points, key=lambda p: (p.value, -p.setting))
        (model,) = [m for m in result.models if m.name == method]
        assert model.options["scale"] == chosen.setting
    assert [h.model for h in result.handovers] == [g.winner for g in result.guards]
    assert result.targets[0].reuse == result.guards[1].winner


def test_the_test_split_is_opened_after_everything_is_chosen(tmp_path, monkeypatch):
    """Spoiling every test label changes test scores and nothing that was chosen or handed over."""
    from taskloom.evaluation.data import Examples, SealedSplit

    honest = SealedSplit.open

    def spoilt(self, reader):
        found = honest(self, reader)
        return Examples(found.inputs, (found.labels + 1) % 2)

    plain = run(MICRO, output=tmp_path / "plain")
    monkeypatch.setattr(SealedSplit, "open", spoilt)
    other = run(MICRO, output=tmp_path / "spoilt")
    assert [s for s in plain.scores if s.split != "test"] == [
        s for s in other.scores if s.split != "test"
    ]
    assert [s for s in plain.scores if s.split == "test"] != [
        s for s in other.scores if s.split == "test"
    ]
    assert (plain.guards, plain.sweeps) == (other.guards, other.sweeps)
    assert [h.digest for h in plain.handovers] == [h.digest for h in other.handovers]
    assert [r.entries for r in plain.rankings] == [r.entries for r in other.rankings]


def test_gains_and_regrets_follow_from_the_scores(micro):
    result = micro.result
    (target,) = result.targets
    test = {s.model: s.value for s in result.scores if s.task == target.target and s.split == "test"}
    assert target.value == test[target.reuse]
    assert target.gain == pytest.approx(test[target.reuse] - test["base"])
    assert target.gain_low <= target.gain <= target.gain_high
    assert target.best_in_hindsight_value == max(test.values())
    best = max(v for m, v in test.items() if m.startswith("expert:"))
    assert [r.score for r in result.rankings] == ["logme", "h_score(regularised=True)"]
    for ranking in result.rankings:
        first = min(ranking.entries, key=lambda e: e.rank).expert
        assert ranking.regret_at_1 == pytest.approx(best - test[first])
    for row, values in zip(result.transfer.rows, result.transfer.values, strict=True):
        for task, value in zip(result.transfer.columns, values, strict=True):
            of = {s.model: s.value for s in result.scores if s.task == task and s.split == "test"}
            assert value == pytest.approx(of[f"expert:{row}"] - of["base"])


def test_the_lock_names_everything_that_went_in(micro):
    lock = micro.result.lock
    tasks = {f"task {t.name}": t.digest for t in micro.result.tasks}
    assert tasks.items() <= lock.inputs.items()
    assert {"base", *(f"expert {n}" for n in MICRO["pool"])} <= set(lock.inputs)
    assert all(len(digest) == 64 for digest in lock.inputs.values())
    assert numeric_versions().items() <= lock.versions.items()
    assert {"python", "taskloom"} <= set(lock.versions)
    assert lock.peak_memory_bytes > 1e7
    assert min(lock.seconds.values()) >= 0


# --- what is handed over ----------------------------------------------------------------------


def test_auto_model_loads_what_is_handed_over(micro):
    from transformers import AutoModel

    for handover in micro.result.handovers:
        folder = micro.folder / handover.path
        module = AutoModel.from_pretrained(folder, add_pooling_layer=False)
        stored = load_file(folder / "model.safetensors")
        assert sum(p.numel() for p in module.parameters()) == sum(t.numel() for t in stored.values())
        assert list(head_names(folder)) == sorted(handover.heads)
        note = json.loads((folder / "taskloom.json").read_text())
        assert note["model"]["name"] == handover.model
        assert note["weights"] == handover.digest == SafetensorsCheckpoint(folder).digest()
        assert "heads/" in (folder / "README.md").read_text()
    assert micro.result.handovers[0].heads == MICRO["pool"]


def test_the_guard_says_by_how_much_the_best_merge_wins_or_loses(micro):
    """By the validation scores and, for the target, those of cross-validation."""
    for guard in micro.result.guards:
        tasks = MICRO["pool"] if guard.scope == "pool" else [guard.scope]
        split = "validation" if guard.scope == "pool" else "cross-validation"
        value = {
            (s.model, s.task): s.value
            for s in micro.result.scores
            if s.split == split and s.task in tasks
        }
        rivals = {"base", *(f"expert:{name}" for name in MICRO["pool"]), "average"} - {guard.best_merge}
        assert {(m.rival, m.task) for m in guard.margins} == {
            (rival, task) for rival in rivals for task in (*tasks, "")
        }
        for m in guard.margins:
            assert m.composition == guard.best_merge
            over = [m.task] if m.task else tasks
            wanted = sum(value[m.composition, t] - value[m.rival, t] for t in over) / len(over)
            assert m.gain == pytest.approx(wanted)
            assert m.low <= m.gain <= m.high
            assert m.n == 40 * len(over)
        folder = micro.folder / "handover" / guard.scope
        card = (folder / "README.md").read_text()
        assert guard.reason[1:] in card
        assert f"| base | {tasks[0]} |" in card


def test_each_card_speaks_of_its_own_model(micro):
    pool = (micro.folder / "handover/pool/README.md").read_text()
    target = (micro.folder / "handover/digits_ten/README.md").read_text()
    assert micro.result.targets[0].sentence in target
    assert micro.result.targets[0].sentence not in pool
    assert "mean validation score over 2 tasks" in pool


def test_scores_follow_from_the_handed_over_files(micro):
    from taskloom.evaluation.load import load_task

    folder = micro.folder / "handover" / "digits_ten"
    test = load_task("digits_ten", n_labels=40, max_test=60).test.open("check")
    features = Encoder.load(folder).features(test.inputs)
    value = (Head.load(folder, "digits_ten").predict(features) == test.labels).mean()
    assert value == pytest.approx(micro.result.targets[0].value, abs=1e-6)


def test_the_script_reproduces_the_score(micro, tmp_path):
    handover = micro.result.handovers[1]
    command = [sys.executable, str(micro.folder / handover.path / "reproduce.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    told = json.loads(done.stdout)
    assert (
        f"{told['task']} test accuracy {told['accuracy']:.6f} (n = {told['n']})" == handover.reproduces
    )
    assert repr(str(micro.folder / handover.path)) in handover.snippet


# --- running again ----------------------------------------------------------------------------


@pytest.fixture
def copied(micro, tmp_path) -> Path:
    """A copy of the run folder, to be spoilt."""
    return Path(shutil.copytree(micro.folder, tmp_path / "micro"))


def test_a_second_run_skips_everything(micro, copied):
    before = files_of(copied)
    again = run(MICRO, output=copied)
    changed = {name for name, mark in files_of(copied).items() if before.get(name) != mark}
    # the hand-over's script names its folder only when pasted, so that a moved folder stays as it is
    assert changed - {".running"} == {"plan.yaml", "lock.json", "result.json", "report.html"}
    assert facts(again) == facts(micro.result)
    skipped = dict(reversed(item.split(" ", 1)) for item in again.lock.skipped)
    assert skipped["experts"] == "2"
    assert skipped["handovers"] == "2"
    assert {"features", "heads", "predictions", "sweeps", "cosines", "labels"} <= set(skipped)
    assert sum(again.lock.seconds.values()) < 0.5 * sum(micro.result.lock.seconds.values())


def test_the_result_does_not_depend_on_what_was_in_the_stash(micro, copied, tmp_path):
    fresh = run(MICRO, output=tmp_path / "fresh")
    assert facts(fresh) == facts(micro.result)
    rng = np.random.default_rng(0)
    pieces = sorted(p for p in (copied / "stash").rglob("*") if p.is_file())
    for path in rng.choice(pieces, len(pieces) // 2, replace=False):
        Path(path).unlink()
    assert facts(run(MICRO, output=copied)) == facts(micro.result)


def test_a_damaged_stash_does_no_harm(micro, copied):
    for path in (copied / "stash").rglob("*.*"):
        if path.suffix in (".npy", ".json"):
            path.write_bytes(b"\x00" * 10)
    assert facts(run(MICRO, output=copied)) == facts(micro.result)


def spoil_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_weights,
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "model.safetensors").write_bytes(b"half"),
        lambda folder: shutil.rmtree(folder / "heads"),
        lambda folder: (folder / "taskloom.json").write_text("{"),
        lambda folder: (folder / "taskloom.json").write_text("[]"),
        shutil.rmtree,
    ],
)
def test_a_hand_over_that_was_touched_is_written_again(micro, copied, spoil):
    spoil(copied / "handover" / "pool")
    again = run(MICRO, output=copied)
    assert again.handovers[0].digest == micro.result.handovers[0].digest
    assert "1 handovers" in again.lock.skipped, "the other one was not touched"
    assert SafetensorsCheckpoint(copied / "handover/pool").digest() == again.handovers[0].digest
    assert (copied / "handover" / "pool" / "heads").is_dir()


def counts(result: RunResult) -> dict[str, int]:
    return {kind: int(n) for n, kind in (item.split(" ", 1) for item in result.lock.skipped)}


@pytest.mark.parametrize(
    ("changes", "fresh"),
    [
        ({"evaluation": {"precision": "bf16"}}, {"features", "heads", "predictions", "sweeps"}),
        ({"seed": 1}, {"features", "heads", "predictions", "sweeps", "experts"}),
        ({"train": {**MICRO["train"], "steps": 9}}, {"experts", "sweeps", "cosines"}),
    ],
)
def test_what_depends_on_a_change_is_computed_again(micro, copied, tmp_path, changes, fresh):
    """A run into a used folder equals one into an empty folder, whatever was changed in the plan."""
    plan = plan_with(**changes)
    again, alone = run(plan, output=copied), run(plan, output=tmp_path / "alone")
    assert facts(again) == facts(alone)
    assert not fresh & set(counts(again)) - {"features", "heads", "predictions", "experts"}
    assert again.lock.plan_digest != micro.result.lock.plan_digest


def test_a_cheaper_change_reuses_the_rest(micro, copied):
    again = run(plan_with(merge=["average"], select=["knn"]), output=copied)
    found = counts(again)
    assert found["experts"] == 2
    assert found["features"] == 4 * 7 + 2, "base, two experts, average on 7 splits; base on two trains"
    assert "sweeps" not in found


# --- inputs that change -----------------------------------------------------------------------


def test_changed_weights_of_the_base_or_an_expert_are_noticed(micro, base, experts, tmp_path):
    mine = Path(shutil.copytree(base, tmp_path / "base"))
    theirs = [str(shutil.copytree(path, tmp_path / Path(path).name)) for path in experts]
    items = [{"task": t, "expert": e} for t, e in zip(MICRO["pool"], theirs, strict=True)]
    plan = plan_with(base={"path": str(mine)}, pool=items, merge=["average"])
    first = run(plan, output=tmp_path / "run")
    assert first.lock.inputs == micro.result.lock.inputs
    assert first.scores == [s for s in micro.result.scores if s.model in MODELS[:4]]

    spoil_weights(Path(theirs[1]))
    second = run(plan, output=tmp_path / "run")
    changed = [k for k in first.lock.inputs if first.lock.inputs[k] != second.lock.inputs[k]]
    assert changed == ["expert digits_mod3"]
    assert facts(second) == facts(run(plan, output=tmp_path / "alone"))

    spoil_weights(mine)
    third = run(plan, output=tmp_path / "run")
    changed = [k for k in second.lock.inputs if second.lock.inputs[k] != third.lock.inputs[k]]
    assert changed == ["base"]
    assert facts(third) == facts(run(plan, output=tmp_path / "alone again"))


def test_an_expert_of_another_shape_is_refused(base, experts, tmp_path):
    from taskloom.errors import CheckpointError
    from taskloom.models.build import init_encoder

    other = init_encoder({"hidden": 24, "layers": 1, "heads": 2}, tmp_path / "other")
    items = [
        {"task": "digits_parity", "expert": str(other)},
        {"task": "digits_mod3", "expert": experts[1]},
    ]
    with pytest.raises(CheckpointError, match=r"expert 'digits_parity'.*expected"):
        run(plan_with(base={"path": base}, pool=items), output=tmp_path / "run")


def test_two_runs_into_one_folder_are_refused(copied):
    with (
        pipeline.Workspace(copied).exclusive(),
        pytest.raises(OutputError, match="another run is writing"),
    ):
        run(MICRO, output=copied)


def test_warn_hands_over_a_losing_merge_with_a_warning(micro, copied):
    result = run(plan_with(guard="warn"), output=copied)
    for guard, strict in zip(result.guards, micro.result.guards, strict=True):
        lost = strict.best_merge in strict.refused
        assert guard.winner == (strict.best_merge if lost else strict.winner)
        assert any(w.startswith(f"{guard.scope}: ") for w in result.warnings) == lost


def test_a_pool_of_one_and_no_target(tmp_path):
    plan = plan_with(pool=["digits_mod3"], targets=[], merge=[])
    result = run(plan, output=tmp_path / "run")
    assert (result.rankings, result.cosines, result.targets) == ([], None, [])
    assert [m.name for m in result.models] == ["base", "expert:digits_mod3"]
    assert "is handed over" in result.headline


# --- the report -------------------------------------------------------------------------------


def test_the_report_is_written_again_from_the_result(copied):
    (copied / "report.html").unlink()
    assert report(copied) == copied / "report.html"
    assert "<html" in (copied / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "holds no finished run"),
        ("{", "is not a result this version reads"),
        ('{"schema_version": 2}', "is not a result this version reads"),
    ],
)
def test_no_result_no_report(tmp_path, content, told):
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(OutputError, match=told):
        load_result(tmp_path)


def test_the_plan_file_is_kept_as_it_was_written(micro, tmp_path, copied):
    path = write_plan(tmp_path / "plan.yaml")
    path.write_text("# mine\n" + path.read_text())
    run(path, output=copied)
    assert (copied / "plan.yaml").read_text() == path.read_text()
