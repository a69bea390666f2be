"""``taskloom collect`` and ``merge --statistic``, on tiny vision transformers."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import taskloom
from taskloom.cli.main import invoke
from taskloom.errors import TaskloomError
from taskloom.models.build import init_encoder
from taskloom.store.safetensors_dir import SafetensorsCheckpoint
from taskloom.store.statistic import open_statistic

TASKS = {"a": "digits_parity", "b": "digits_mod3"}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    spec = {"kind": "vit", "hidden": 16, "layers": 1, "heads": 2, "intermediate": 16}
    base = init_encoder(spec, folder / "base", seed=0)
    for number, name in enumerate(TASKS):
        expert = init_encoder(spec, folder / name, seed=0)
        weights = load_file(expert / "model.safetensors")
        generator = torch.Generator().manual_seed(number)
        moved = {n: w + 0.05 * torch.randn(w.shape, generator=generator) for n, w in weights.items()}
        save_file(moved, expert / "model.safetensors", metadata={"format": "pt"})
    return base.parent


OPTIONS = {
    "fisher": ["--set", "labels=sampled"],
    "gram": [],
    "sensitivity": ["--against"],
    "graft": ["--set", "sparsity=0.01", "--set", "steps=1"],
}
METHODS = {"fisher": "fisher", "gram": "regmean", "sensitivity": "sens_merging", "graft": "graft"}


@pytest.mark.parametrize("kind", OPTIONS)
def test_collected_on_the_command_line_and_merged(pool, tmp_path, capsys, kind):
    given = []
    for name, task in TASKS.items():
        words = list(OPTIONS[kind])
        if words == ["--against"]:
            words = [
                w for other in TASKS if other != name for w in ("--against", f"{other}={pool / other}")
            ]
        file = tmp_path / f"{name}.safetensors"
        command = ["collect", kind, "--model", pool / name, "--task", task, "--base", pool / "base"]
        status = invoke([str(w) for w in [*command, *words, "--examples", 6, "--json", "-o", file]])
        said = capsys.readouterr()
        assert status == 0, said.err
        table = json.loads(said.out)
        assert (table["examples"], table["task"], table["statistic"]) == ("6", task, kind)
        assert table["model_digest"] == SafetensorsCheckpoint(pool / name).digest()
        assert open_statistic(file).kind == kind
        given += ["--statistic", f"{name}={file}"]
    out = tmp_path / "merged"
    words = ["merge", "--base", pool / "base", "--method", METHODS[kind], *given, "-o", out]
    words += [w for name in TASKS for w in ("--expert", f"{name}={pool / name}")]
    assert invoke([str(w) for w in words]) == 0, capsys.readouterr().err
    again = taskloom.verify(out, everything=True)
    assert again.tensors == len(SafetensorsCheckpoint(out).tensors)


def test_a_statistic_of_another_model_is_refused(pool, tmp_path, capsys):
    found = taskloom.collect("gram", str(pool / "a"), TASKS["a"], base=str(pool / "base"), examples=4)
    file = found.save(tmp_path / "g.safetensors")
    words = ["merge", "--method", "regmean", "--expert", f"b={pool / 'b'}", "-o", tmp_path / "out"]
    assert invoke([str(w) for w in [*words, "--statistic", f"b={file}"]]) == 3
    assert "was collected on the weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--statistic", "a"], "is not NAME=FILE"),
        (["--statistic", "c=x.safetensors"], "names the expert 'c'"),
        ([], "taskloom collect fisher --model a"),
    ],
)
def test_what_is_missing_is_said(pool, tmp_path, capsys, words, message):
    line = ["merge", "--method", "fisher", "--expert", f"a={pool / 'a'}", "-o", tmp_path / "out", *words]
    assert invoke([str(w) for w in line]) == 2
    assert message in capsys.readouterr().err


def test_no_head_and_no_base(pool):
    with pytest.raises(TaskloomError, match=r"no head for task .* Give --base"):
        taskloom.collect("fisher", str(pool / "a"), TASKS["a"], examples=2)
    with pytest.raises(TaskloomError, match="did you mean 'fisher'"):
        taskloom.collect("fishers", str(pool / "a"), TASKS["a"])


def test_against_needs_names(pool, tmp_path, capsys):
    line = ["collect", "sensitivity", "--model", pool / "a", "--task", "digits_parity"]
    line += ["--against", pool / "b", "-o", tmp_path / "x"]
    assert invoke([str(w) for w in line]) == 2
    assert "NAME=PATH" in capsys.readouterr().err
