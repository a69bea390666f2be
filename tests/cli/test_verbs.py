"""Every verb hands its words to the library call of the same name and prints what comes back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace as Thing

import pytest
import torch
from safetensors.torch import load_file

import taskloom
from taskloom.choose.rank import Ranked, Ranking
from taskloom.evaluation.score import Score
from taskloom.progress import Progress


@pytest.fixture
def calls(monkeypatch):
    """Replace a library call by one that remembers how it was called."""

    def replace(name, result):
        seen = {}

        def call(*words, **options):
            progress = options.pop("progress", None)
            assert progress is None or isinstance(progress, object)
            seen.update(words=words, options=options, progress=progress)
            return result

        monkeypatch.setattr(taskloom, name, call, raising=False)
        return seen

    return replace


def listens(progress: Progress) -> bool:
    progress("something", 0, 1)
    return True


# --- pool and merge: the real thing -----------------------------------------------------------


def test_pool_lists_what_fits(cli, models):
    told = cli("pool", "--base", models["base"], "--expert", models["spam"], "--json")
    assert told.status == 0
    (expert,) = told.data["experts"]
    assert (expert["name"], expert["parameters"], expert["bytes"]) == ("spam", 3, 12)
    table = cli("pool", "--base", models["base"], "--expert", f"mail={models['spam']}")
    assert "mail" in table.out


def test_pool_refuses_what_does_not_fit(cli, models):
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2, 2)}, models["news"] / "model.safetensors")
    told = cli("pool", "--base", models["base"], "--expert", models["news"])
    assert told.status == 3
    assert told.err.startswith("error: ")
    assert "'w'" in told.err


def merge_words(models, *more):
    experts = ["--expert", models["spam"], "--expert", f"topic={models['news']}"]
    return ["merge", "--base", models["base"], *experts, *more]


def test_merge_writes_what_the_library_computes(cli, models, tmp_path):
    words = ["--method", "task_arithmetic", "--set", "scale=0.5", "-o", tmp_path / "out"]
    told = cli(*merge_words(models, *words, "--json"))
    assert told.status == 0
    assert told.data["options"]["scale"] == 0.5
    assert told.data["experts"] == ["spam", "topic"]
    merged = load_file(tmp_path / "out" / "model.safetensors")
    torch.testing.assert_close(merged["w"], torch.tensor([2.0, 0.0, 2.0]))
    assert (tmp_path / "out" / "config.json").exists()


def test_merge_says_where_how_and_at_what_cost(cli, models, tmp_path):
    told = cli(*merge_words(models, "--method", "ties", "-o", tmp_path / "out"))
    assert told.out.startswith(f"{tmp_path / 'out'}: ties of 2 experts (keep(0.2, model)")
    assert "3 reads" in told.out


def test_merge_in_another_dtype(cli, models, tmp_path):
    words = ["--method", "average", "--dtype", "bfloat16", "-o", tmp_path / "out"]
    assert cli(*merge_words(models, *words)).status == 0
    assert load_file(tmp_path / "out" / "model.safetensors")["w"].dtype == torch.bfloat16


def test_a_seed_is_a_seed_however_it_is_given(cli, models, tmp_path):
    for name, words in (("a", ["--seed", "5"]), ("b", ["--set", "seed=5"]), ("c", [])):
        more = ["--method", "dare_linear", "--set", "p=0.5", "-o", tmp_path / name, *words]
        assert cli(*merge_words(models, *more, "--explain")).status == 0
        assert cli(*merge_words(models, *more)).status == 0
    a, b, c = (load_file(tmp_path / name / "model.safetensors")["w"] for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_merge_replaces_only_by_force(cli, models, tmp_path):
    words = merge_words(models, "--method", "average", "-o", tmp_path / "out")
    assert cli(*words).status == 0
    again = cli(*words)
    assert again.status == 7
    assert "exists" in again.err
    assert cli(*words, "--force").status == 0


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["--method", "tise"], 2, "did you mean 'ties'?"),
        (["--method", "ties", "--set", "densty=1"], 2, "did you mean 'density'?"),
        (["--method", "ties", "--set", "density=2"], 2, "less than or equal to 1"),
        (["--method", "ties", "--set", "density"], 2, "OPTION=VALUE"),
        (["--method", "ties", "--set", "dtype=float32"], 2, "no method has an option 'dtype'"),
        (["--method", "dare_ties", "--set", "seed=1", "--seed", "1"], 2, "given twice"),
        (["--method", "dare_ties", "--set", "seed=x"], 2, "expected a whole number, found 'x'"),
        (["--method", "ties", "--dtype", "int8"], 2, "'int8' is not one of"),
        (["--method", "ties", "--expert", "/nowhere/at/all"], 3, "/nowhere/at/all"),
    ],
)
def test_merge_refuses_with_the_way_out(cli, models, tmp_path, words, status, told):
    outcome = cli(*merge_words(models, *words, "-o", tmp_path / "out"))
    assert outcome.status == status
    assert told in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# --- the verbs of runs/ -----------------------------------------------------------------------


def test_select_prints_each_ranking(cli, calls):
    ranking = Ranking("logme", (Ranked("spam", 0.7, 1), Ranked("news", 0.2, 2)), 0.1)
    seen = calls("select", Thing(rankings=[ranking]))
    words = ["--base", "b", "--expert", "x/spam", "--expert", "n=x/news"]
    told = cli("select", "quotes", *words, "--score", "logme", "--labels", "32", "--seed", "4")
    assert told.status == 0
    assert seen["words"] == ("quotes", "b", {"spam": "x/spam", "n": "x/news"})
    assert seen["options"] == {"scores": ["logme"], "n_labels": 32, "seed": 4}
    assert listens(seen["progress"])
    assert told.out.index("spam") < told.out.index("news")


def test_select_refuses_too_few_labels(cli):
    told = cli("select", "quotes", "--base", "b", "--expert", "e", "--labels", "1")
    assert told.status == 2
    assert "--labels" in told.err


def test_train_passes_the_options_of_the_method(cli, calls):
    expert = Thing(directory=Path("out/x"), seconds=12.0, steps=63, cached=False)
    seen = calls("train", expert)
    words = ["--method", "lora", "--set", "rank=8", "--set", "lr=1e-4", "-o", "out/x"]
    told = cli("train", "trec6", "--base", "b", *words)
    assert seen["words"] == ("trec6", "b")
    assert seen["options"] == {
        "output": Path("out/x"),
        "method": "lora",
        "options": {"rank": 8, "lr": "1e-4"},
        "seed": 0,
    }
    assert told.out == "out/x: trec6, 63 steps in 12 s\n"


def test_train_says_when_it_found_the_expert_in_the_cache(cli, calls):
    calls("train", Thing(directory=Path("o"), seconds=0.1, steps=0, cached=True))
    assert cli("train", "t", "--base", "b", "-o", "o").out == "o: t, from the cache\n"


def test_eval_prints_values_with_n_and_interval(cli, calls):
    score = Score("ties", "trec6", "test", "accuracy", 0.8125, 0.75, 0.86, "wilson", 250, 0)
    seen = calls("evaluate", [score])
    words = ["--model", "ties=out/m", "--task", "trec6", "--base", "b"]
    told = cli("eval", *words)
    assert seen["words"] == ({"ties": "out/m"}, ["trec6"])
    assert seen["options"] == {"base": "b", "seed": 0}
    for part in ("ties", "trec6", "0.8125", "0.75", "0.86", "250"):
        assert part in told.out
    (row,) = cli("eval", *words, "--json").data
    assert row["interval"] == "wilson"


RESULT = Thing(
    headline="For quotes reuse TIES: it gains 3.1 points.",
    tasks=[Thing(name="trec6", role="pool"), Thing(name="quotes", role="target")],
    models=[
        Thing(name="base", title="Base", kind="base"),
        Thing(name="ties", title="TIES", kind="merge"),
        Thing(name="late", title="Late", kind="merge"),
    ],
    scores=[
        Thing(model="base", task="trec6", split="test", value=0.5),
        Thing(model="ties", task="trec6", split="test", value=0.75),
        Thing(model="ties", task="trec6", split="validation", value=0.1),
        Thing(model="ties", task="quotes", split="test", value=0.2),
    ],
    targets=[Thing(sentence="One sentence for quotes.")],
    handovers=[Thing(path="handover/ties", reproduces="trec6 test accuracy 0.75")],
    warnings=["a label is rare"],
)


@pytest.mark.parametrize(
    ("verb", "words", "expected"),
    [
        ("run", ["plan.yaml", "-o", "r"], ((Path("plan.yaml"),), {"output": Path("r"), "guard": None})),
        (
            "run",
            ["plan.yaml", "--guard", "warn"],
            ((Path("plan.yaml"),), {"output": None, "guard": "warn"}),
        ),
        ("demo", ["--small"], ((), {"small": True, "output": None})),
        ("demo", ["-o", "r"], ((), {"small": False, "output": Path("r")})),
    ],
)
def test_run_and_demo_open_with_the_sentence_a_user_wants(cli, calls, verb, words, expected):
    seen = calls(verb, RESULT)
    told = cli(verb, *words)
    assert (seen["words"], seen["options"]) == expected
    assert listens(seen["progress"])
    assert told.out.startswith(RESULT.headline)
    assert told.out.index("TIES  ") < told.out.index("Base"), "best first"
    assert "0.75" in told.out
    assert "One sentence for quotes." in told.out
    assert "handed over: handover/ties (trec6 test accuracy 0.75)" in told.out
    assert told.err == "warning: a label is rare\n"


def test_report_prints_the_path(cli, calls):
    seen = calls("report", Path("runs/mine/report.html"))
    assert cli("report", "runs/mine").out == "runs/mine/report.html\n"
    assert seen["words"] == (Path("runs/mine"),)
    assert cli("report", "runs/mine", "--json").data == {"report": "runs/mine/report.html"}


# --- lists ------------------------------------------------------------------------------------


def test_methods_json_is_one_array_of_everything(cli):
    found = cli("methods", "--json").data
    assert isinstance(found, list)
    assert {"merge", "score", "metric", "source"} <= {entry["family"] for entry in found}
    names = {(entry["family"], entry["name"]) for entry in found}
    assert len(names) == len(found)
    for entry in found:
        assert entry["summary"].endswith("."), entry["name"]
        keys = {"family", "name", "needs", "grain", "reads", "parameters", "room", "module"}
        assert keys <= set(entry)


def test_methods_table_by_family(cli):
    told = cli("methods", "merge")
    assert "merging methods (merge)" in told.out
    assert "density=0.2" in told.out
    assert "logme" not in told.out


def test_methods_that_fit_what_there_is(cli):
    found = cli("methods", "--have", "nothing", "--experts", "lora", "--no-parts", "--json").data
    names = [entry["name"] for entry in found]
    assert {entry["family"] for entry in found} == {"merge"}
    assert {"copa_merging", "knots", "ties"} <= set(names)
    assert not {"regmean", "emr", "model_stock", "slerp"} & set(names)
    some = cli("methods", "merge", "--have", "unlabeled", "--json").data
    assert {"regmean", "emr"} <= {entry["name"] for entry in some}
    assert "sens_merging" not in {entry["name"] for entry in some}


def test_choosing_is_among_merging_methods(cli):
    told = cli("methods", "score", "--have", "labels")
    assert told.status == 2
    assert "choose among merging methods, and the family is 'score'" in told.err


def test_methods_of_an_unknown_family(cli):
    told = cli("methods", "scor")
    assert told.status == 2
    assert "did you mean 'score'?" in told.err


def test_tasks_lists_labels_source_and_licence(cli):
    found = cli("tasks", "--json").data
    trec = next(task for task in found if task["name"] == "trec6")
    assert len(trec["labels"]) == 6
    assert trec["license"]["data"]
    assert "trec6" in cli("tasks").out
