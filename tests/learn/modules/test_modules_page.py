"""The examples of docs/modules.md run, and its loaders give what this library gives."""

import re
from pathlib import Path

import torch

import taskloom
from taskloom import registry
from taskloom.learn.modules.kit.opening import fit_module, open_module

from .small import Deep, averaged, inputs, problem
from .test_wemoe import FC, arithmetic

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/modules.md").read_text(encoding="utf-8")


def loader(title):
    """Return what a stand-alone loader of the page defines."""
    (block,) = re.findall(rf'^```python title="{title}"\n(.*?)^```', PAGE, re.S | re.M)
    assert "taskloom" not in block
    assert len([line for line in block.splitlines() if line.strip()]) <= 22
    found: dict[str, object] = {}
    exec(compile(block, title, "exec"), found)
    return found["attach"]


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
    space: dict[str, object] = {}
    exec(compile(block, "docs/modules.md", "exec"), space)
    before, after = map(float, capsys.readouterr().out.split(" bytes")[0].split()[0:3:2])
    assert after < before
    assert space["logits"].shape == (64, 3)
    assert (tmp_path / "surgery-of-two" / "module.json").is_file()


def test_surgery_without_this_library(tmp_path):
    on = problem()
    merged = averaged(on)
    for kind in ("surgery", "surgery_v2"):
        fitted = fit_module(kind, on, merged, steps=3, rank=2, learning_rate=0.1)
        folder = fitted.save(tmp_path / kind)
        for task in on.tasks:
            net, plain = Deep(), Deep()
            net.load_state_dict(merged)
            plain.load_state_dict(merged)
            last = loader("open_surgery.py")(plain, folder, task)
            opened = open_module(folder, net)
            with torch.no_grad():
                assert torch.allclose(plain(inputs(4)), opened(inputs(4), task=task), atol=1e-6)
            assert last(torch.zeros(2, 6)).shape == (2, 6)


def test_wemoe_without_this_library(tmp_path):
    on = problem()
    _, _, merged = arithmetic(on)
    fitted = fit_module("wemoe", on, merged, steps=3, learning_rate=0.05, mlp=FC, spread=0.3)
    folder = fitted.save(tmp_path / "wemoe")
    net, plain = Deep(), Deep()
    net.load_state_dict(merged)
    plain.load_state_dict(merged)
    loader("open_wemoe.py")(plain, folder)
    with torch.no_grad():
        assert torch.allclose(plain(inputs(4)), open_module(folder, net)(inputs(4)), atol=1e-5)


def test_the_page_has_every_module():
    for entry in registry.entries("module"):
        assert f"| `{entry.name}` |" in PAGE
    assert taskloom.open_module is open_module
