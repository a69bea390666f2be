"""Small modules fitted on the small plan's tasks, held against its experts and the merge below."""

from __future__ import annotations

import pytest

import taskloom
from taskloom.cli.main import invoke
from taskloom.errors import NumericalError, OutputError, PlanError, UnknownName
from taskloom.evaluation.data import SealedSplit
from taskloom.learn.modules.kit.artefact import open_fitted
from taskloom.learn.modules.kit.opening import open_module
from taskloom.models.encoder import Encoder
from taskloom.runs.fit_module import fit_on_merge
from taskloom.runs.plan import Limits

from .conftest import MICRO, temporaries

LIMITS = Limits(**MICRO["limits"])
TASKS = list(MICRO["pool"])
OWN = {"digits_parity": "parity", "digits_mod3": "mod3"}


@pytest.fixture
def named(experts):
    return dict(zip(("parity", "mod3"), experts, strict=True))


@pytest.fixture
def sealed(monkeypatch):
    def opened(self, reader):
        raise AssertionError(f"{reader} opened the test split")

    monkeypatch.setattr(SealedSplit, "open", opened)


@pytest.mark.usefixtures("sealed")
def test_surgery_on_the_average(base, named, tmp_path):
    found = fit_on_merge(
        "surgery",
        TASKS,
        base,
        named,
        own=OWN,
        options={"steps": 30, "rank": 4, "learning_rate": 0.01},
        output=tmp_path / "surgery",
        limits=LIMITS,
    )
    assert list(found.scored) == ["base", "parity", "mod3", "merged", "fitted"]
    assert [len(row.scores) for row in found.scored.values()] == [2] * 5
    assert found.fitted.said["examples"] == "digits_parity 60, digits_mod3 60"
    assert found.path == tmp_path / "surgery"
    opened = open_module(found.path, Encoder.load(base).module)
    assert opened.tasks == tuple(TASKS)
    assert opened.fitted.digest() == found.fitted.digest()
    assert temporaries(tmp_path) == []


@pytest.mark.usefixtures("sealed")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("wemoe", {"steps": 2, "start": 0.4}),
        ("tinting", {"epochs": 2}),
    ],
)
def test_what_each_sits_on(base, named, name, options):
    found = fit_on_merge(name, TASKS, base, named, own=OWN, options=options, limits=LIMITS)
    assert found.path is None
    assert 0 <= found.scored["fitted"].value <= 1
    assert found.verdict.reason
    assert found.fitted.trace[-1].step == 2


@pytest.mark.usefixtures("sealed")
def test_a_module_that_changes_nothing_scores_as_the_merge_below(base, named):
    found = fit_on_merge("surgery_v2", TASKS, base, named, own=OWN, options={"steps": 0}, limits=LIMITS)
    assert found.scored["fitted"].value == found.scored["merged"].value
    assert found.scored["fitted"].kept
    assert not found.scored["merged"].kept


def test_the_router_sits_on_parts(base, named, tmp_path):
    with pytest.raises(PlanError, match="sits on the shared model and the parts beside it"):
        fit_on_merge("twin_router", TASKS, base, named, own=OWN, limits=LIMITS)
    taskloom.merge_parts(base, named, "twin_merging", tmp_path / "parts")
    found = fit_on_merge(
        "twin_router",
        TASKS,
        base,
        named,
        own=OWN,
        merged=tmp_path / "parts",
        options={"epochs": 2},
        output=tmp_path / "router",
        limits=LIMITS,
    )
    assert (tmp_path / "router" / "parts" / "model.safetensors").is_file()
    assert found.fitted.said["validation"]


def test_bad_input(base, named, tmp_path):
    with pytest.raises(UnknownName, match="unknown small module 'surgry': did you mean 'surgery'"):
        fit_on_merge("surgry", TASKS, base, named)
    with pytest.raises(PlanError, match="has no expert of its own"):
        fit_on_merge("surgery", TASKS, base, named, limits=LIMITS)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(OutputError, match="exists and is not empty"):
        fit_on_merge("surgery", TASKS, base, named, output=tmp_path / "there")
    with pytest.raises(PlanError, match="both must be asked for"):
        fit_on_merge("surgery", TASKS, base, named, transductive=True)
    with pytest.raises(PlanError, match="is no LoRA adapter"):
        fit_on_merge("cat", TASKS, base, named, limits=LIMITS)
    more = {"own": OWN, "options": {"steps": 40, "learning_rate": 30.0}, "limits": LIMITS}
    with pytest.raises(NumericalError, match="nothing is written"):
        fit_on_merge("surgery", TASKS, base, named, output=tmp_path / "out", strict=True, **more)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("sealed")
def test_on_the_command_line(base, named, tmp_path, capsys):
    words = ["--base", base, *(w for n, path in named.items() for w in ("--expert", f"{n}={path}"))]
    words += [w for task in TASKS for w in ("--task", task)]
    words += [w for task, name in OWN.items() for w in ("--own", f"{task}={name}")]
    out = tmp_path / "surgery"
    words += ["--set", "steps=2", "--examples", "20", "--trace", str(tmp_path / "t.csv"), "-o", str(out)]
    assert invoke(["fit", "surgery", *words, "--merged", str(named["parity"])]) == 0
    said = capsys.readouterr().out
    assert "merged" in said
    assert f"wrote {out}" in said
    assert (tmp_path / "t.csv").read_text().startswith("step,loss,seconds,loss digits_parity")
    assert open_fitted(out).said["merged"] == str(named["parity"])
    assert invoke(["fit", "adamerging", *words, "--merged", str(named["parity"]), "--force"]) == 2
    assert "adamerging fits a merge of its own, and sits on none" in capsys.readouterr().err
    assert invoke(["fit", "surgry", *words, "--force"]) == 2
    told = capsys.readouterr().err
    assert "unknown fitting method or small module 'surgry': did you mean 'surgery'" in told
