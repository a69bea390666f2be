"""One small plan, run once for all tests of this folder, and what they need to look at it."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from taskloom.cli.main import invoke
from taskloom.evaluation.data import SealedSplit
from taskloom.evaluation.load import load_task
from taskloom.learn.head import fit_head
from taskloom.models.encoder import Encoder
from taskloom.runs.pipeline import run
from taskloom.runs.result import RunResult
from taskloom.store.safetensors_dir import SafetensorsCheckpoint
from tiny_models import texts

MICRO: dict[str, Any] = {
    "name": "micro",
    "base": {
        "built": {
            "build": {"kind": "vit", "hidden": 16, "layers": 1, "heads": 2, "intermediate": 16},
            "pretrain": "digits_prime",
            "subset": {"parts": 3, "part": 0},
            "options": {"steps": 8, "batch_size": 16},
        }
    },
    "limits": {"train": 60, "validation": 40, "test": 60},
    "pool": ["digits_parity", "digits_mod3"],
    "targets": [{"task": "digits_ten", "labels": 40}],
    "train": {"steps": 8, "batch_size": 16, "learning_rate": 0.003},
    "fine_tune": False,
    "select": ["logme", {"h_score": {"regularised": True}}],
    "merge": [
        "average",
        {"task_arithmetic": {"sweep": {"scale": [1.0, 0.3]}}},
        {"ties": {"density": 0.5, "sweep": {"scale": [0.5, 1.0]}}},
    ],
}


@dataclass(frozen=True)
class Done:
    """A finished run."""

    folder: Path
    result: RunResult


def plan_with(**changes: Any) -> dict[str, Any]:
    """Return the small plan with some top-level keys replaced."""
    return {**copy.deepcopy(MICRO), **changes}


def write_plan(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(plan_with(**changes), sort_keys=False), encoding="utf-8")
    return path


def facts(result: RunResult) -> dict[str, Any]:
    """Return what two runs of one plan must agree on: all but clocks, paths and the stash."""
    found = json.loads(result.model_dump_json())
    for key in ("created", "plan_yaml"):
        del found[key]
    for key in ("seconds", "peak_memory_bytes", "skipped"):
        del found["lock"][key]
    for ranking in found["rankings"]:
        del ranking["seconds"]
    for handover in found["handovers"]:
        del handover["snippet"]
    return found


def text_task(folder: Path, name: str, count: int, *, seed: int = 0, **more: Any) -> Path:
    """Write a csv of texts about sport or court and its annotation, with some keys more."""
    rows = [
        f"{text},{('court', 'sport')[kind]}" for text, kind in zip(*texts(count, seed=seed), strict=True)
    ]
    (folder / f"{name}.csv").write_text("\n".join(["text,label", *rows, ""]), encoding="utf-8")
    annotation = {
        "name": name,
        "title": name,
        "description": "Whether it is about sport or court.",
        "source": {"kind": "file", "path": f"{name}.csv"},
        "columns": {"inputs": "text", "label": "label"},
        "labels": ["court", "sport"],
        "license": {"package": "none", "data": "CC0-1.0"},
        **more,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(annotation), encoding="utf-8")
    return path


def with_head(model: Path, task: Path) -> str:
    """Give a model of texts the head of a task, fitted on its features; return its directory."""
    data = load_task(task)
    features = Encoder.load(model).features(data.train.inputs)
    fit_head(features, data.train.labels, data.task.label_names, task=data.task.name).save(model)
    return str(model)


def temporaries(*roots: Path) -> list[Path]:
    """Return what atomic writers have left behind."""
    return [p for root in roots for p in root.rglob(".*.tmp")]


@pytest.fixture(scope="session")
def micro(tmp_path_factory) -> Done:
    folder = tmp_path_factory.mktemp("runs") / "micro"
    return Done(folder, run(MICRO, output=folder))


@pytest.fixture(scope="session")
def experts(micro) -> list[str]:
    """Directories of the two experts that the small plan has trained."""
    inputs = micro.result.lock.inputs
    wanted = [inputs[f"expert {name}"] for name in MICRO["pool"]]
    cached = (Path(os.environ["TASKLOOM_CACHE"]) / "experts").glob("digits_*-full-*")
    found = {SafetensorsCheckpoint(path).digest(): str(path) for path in cached}
    return [found[digest] for digest in wanted]


@pytest.fixture(scope="session")
def base(micro) -> str:
    cached = (Path(os.environ["TASKLOOM_CACHE"]) / "bases").glob("digits_prime-full-*")
    wanted = micro.result.lock.inputs["base"]
    return next(str(path) for path in cached if Encoder.load(path).digest() == wanted)


@pytest.fixture
def named(experts) -> dict[str, str]:
    """The two experts under names of their own."""
    return dict(zip(("parity", "mod3"), experts, strict=True))


@pytest.fixture
def sealed(monkeypatch):
    """No test split may be opened."""

    def opened(self, reader):
        raise AssertionError(f"{reader} opened the test split")

    monkeypatch.setattr(SealedSplit, "open", opened)


@pytest.fixture
def cli(capsys):
    def call(*words: object) -> tuple[int, str, str]:
        status = invoke([str(word) for word in words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call
