"""The same thread on texts: a tiny BERT, annotations of local files, adapters, other metrics."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from taskloom.runs.evaluate import evaluate
from taskloom.runs.pipeline import run
from taskloom.runs.plan import Evaluation
from taskloom.runs.result import ScoreRecord
from taskloom.runs.snippets import Reproduction
from taskloom.runs.train import train
from tiny_models import tiny_bert

from .conftest import text_task


def annotate(folder: Path, name: str, seed: int, *, metric="accuracy") -> Path:
    """Write 160 texts and their annotation, none of them left out for being alike."""
    return text_task(folder, name, 160, seed=seed, near_duplicate=1.0, metric=metric)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    tiny_bert(folder / "bert", dropout=0.0)
    for seed, name in enumerate(("first", "second")):
        annotate(folder, name, seed)
    annotate(folder, "few", 7, metric="macro_f1")
    return folder


def plan_of(home: Path, **changes) -> dict:
    return {
        "name": "texts",
        "base": {"path": str(home / "bert"), "title": "tiny BERT"},
        "limits": {"train": 60, "validation": 20, "test": 30},
        "pool": [str(home / "first.yaml"), str(home / "second.yaml")],
        "targets": [{"task": str(home / "few.yaml"), "labels": 24}],
        "train": {"steps": 4, "batch_size": 8},
        "select": ["knn"],
        "merge": ["average", {"ties": {"sweep": {"scale": [0.5, 1.0]}}}],
        "evaluation": {"max_length": 8},
        **changes,
    }


@pytest.fixture(scope="module")
def ran(home):
    return home / "run", run(plan_of(home), output=home / "run")


@pytest.fixture
def told_by(monkeypatch, capsys):
    """Run a script as ``__main__`` in this process, which has its imports behind it."""

    def call(script: Path) -> dict:
        monkeypatch.setattr(sys, "argv", [str(script)])
        runpy.run_path(str(script), run_name="__main__")
        return json.loads(capsys.readouterr().out)

    return call


def test_a_run_on_local_annotations(ran):
    folder, result = ran
    assert [t.name for t in result.tasks] == ["first", "second", "few"]
    assert {s.metric for s in result.scores if s.task == "few"} == {"macro_f1"}
    assert {s.interval for s in result.scores if s.task == "few"} == {"bootstrap"}
    assert result.base.startswith("tiny BERT (")
    assert (folder / "report.html").is_file()


@pytest.mark.parametrize(("number", "metric"), [(0, "accuracy"), (1, "macro_f1")])
def test_a_script_of_plain_transformers_reproduces_the_score_from_anywhere(ran, told_by, number, metric):
    folder, result = ran
    handover = result.handovers[number]
    script = folder / handover.path / "reproduce.py"
    assert "AutoModel" in script.read_text()
    assert "Encoder" not in script.read_text()
    told = told_by(script)
    (score,) = [
        s for s in result.scores if (s.model, s.task, s.split) == (handover.model, told["task"], "test")
    ]
    assert told[metric] == pytest.approx(score.value, abs=1e-6)
    assert told["n"] == score.n


def test_in_bfloat16_the_script_keeps_the_batches(home, told_by, tmp_path):
    options = {"precision": "bf16", "max_length": 8, "batch_size": 5}
    result = run(plan_of(home, evaluation=options), output=tmp_path / "run")
    handover = result.handovers[0]
    script = tmp_path / "run" / handover.path / "reproduce.py"
    assert "Encoder" in script.read_text()
    told = told_by(script)
    value = f"{told['accuracy']:.6f} (n = {told['n']})"
    assert handover.reproduces == f"{told['task']} test accuracy {value}"


def test_a_script_says_what_it_needs():
    s = ScoreRecord(
        model="ties", task="spam", split="test", metric="accuracy", value=0.5, low=0.4, high=0.6,
        interval="wilson", n=9, seed=0,
    )  # fmt: skip
    given = {"seed": 0, "max_train": None, "max_test": 9}
    for pooling, precision, plain in [("mean", "fp32", True), ("mean", "bf16", False),
                                      ("cls", "fp32", False), (None, "fp32", False)]:  # fmt: skip
        evaluation = Evaluation(precision=precision, max_length=40)
        script = Reproduction(s, "spam", given, evaluation, pooling).script("a/'b")
        compile(script, "reproduce.py", "exec")
        assert ("AutoModel" in script) == plain
        assert "max_length=40" in script
        assert "load_task('spam', seed=0, max_test=9)" in script
        assert repr("a/'b") in script


def test_an_adapter_trains_evaluates_and_joins_a_pool(home, tmp_path):
    base, task = str(home / "bert"), str(home / "first.yaml")
    out = tmp_path / "adapter"
    found = train(task, base, output=out, method="lora", options={"steps": 2, "lora_rank": 2})
    assert (out / "adapter_config.json").is_file()
    assert (found.steps, found.cached) == (2, False)
    assert [s.model for s in evaluate({"mine": str(out)}, [task], base=base)] == ["base", "mine"]
    pool = [{"task": task, "expert": str(out)}, str(home / "second.yaml")]
    result = run(plan_of(home, pool=pool, targets=[]), output=tmp_path / "run")
    assert {"expert:first", "average"} <= {m.name for m in result.models}


def test_a_changed_tokenizer_alone_is_noticed(home, tmp_path):
    """Equal weights under another tokenizer give other features: nothing of the old may be reused."""
    bert = tiny_bert(tmp_path / "bert", dropout=0.0)
    plan = plan_of(home, base={"path": str(bert)}, pool=[str(home / "first.yaml")], targets=[])
    first = run(plan, output=tmp_path / "run")
    table = json.loads((bert / "tokenizer.json").read_text())
    words = table["model"]["vocab"]
    words["film"], words["ball"] = words["ball"], words["film"]
    (bert / "tokenizer.json").write_text(json.dumps(table))
    second = run(plan, output=tmp_path / "run")
    assert first.lock.inputs["base"] != second.lock.inputs["base"]
    assert not {"sweeps", "features", "heads", "handovers", "experts"} & {
        item.split(" ", 1)[1] for item in second.lock.skipped
    }


def test_changed_data_is_noticed(home, tmp_path):
    path = annotate(tmp_path, "mine", 3)
    plan = plan_of(home, pool=[str(path)], targets=[])
    first = run(plan, output=tmp_path / "run")
    source = tmp_path / "mine.csv"
    source.write_text(
        source.read_text().replace("sport", "X").replace("court", "sport").replace("X", "court")
    )
    second = run(plan, output=tmp_path / "run")
    assert first.lock.inputs["task mine"] != second.lock.inputs["task mine"]
    assert first.lock.plan_digest == second.lock.plan_digest
    kinds = {item.split(" ", 1)[1] for item in second.lock.skipped}
    assert not {"features", "heads", "experts", "handovers", "labels"} & kinds
