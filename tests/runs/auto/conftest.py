"""A world where it is known what helps: words that the base cannot tell apart, and experts that can."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from taskloom.learn.head import fit_head
from taskloom.models.encoder import Encoder
from taskloom.runs.auto import making
from taskloom.runs.plan import Limits
from tiny_models import WORDS, tiny_bert

GROUPS = (("film", "plot"), ("vote", "law"), ("ball", "goal"), ("team", "game"))
FILLERS = ("good", "bad", "fine", "poor", "the", "a", "is", "was", "of", "it")
NAMES = ("film", "court", "ball", "team")
EMBEDDINGS = "embeddings.word_embeddings.weight"
LIMITS = Limits(train=96, validation=72, test=120)


@dataclass
class Paced:
    """A clock that only work moves: so much for every example that a model is run on."""

    now: float = 0.0
    runs: int = 0
    most: int | None = None  # then it is interrupted

    def __call__(self) -> float:
        return self.now

    def work(self, count: int) -> None:
        if self.runs == self.most:
            raise KeyboardInterrupt
        self.runs += 1
        self.now += 0.5 + 0.1 * count


@dataclass(frozen=True)
class World:
    """Directories by name, annotations by name."""

    base: str
    experts: dict[str, str]
    tasks: dict[str, str]
    options: dict[str, Any] = field(default_factory=dict)


def write_task(folder: Path, name: str, groups: tuple[int, ...], count: int, **more: Any) -> str:
    rng = np.random.default_rng(len(groups))
    rows = []
    for i in range(count):
        group = groups[i % len(groups)]
        words = [*rng.choice(FILLERS, 5), *rng.choice(GROUPS[group], 4)]
        rows.append(f"{' '.join(rng.permutation(words))},{NAMES[group]}")
    (folder / f"{name}.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    annotation = {
        "name": name,
        "title": name,
        "description": "Words of some groups among others.",
        "source": {"kind": "file", "path": f"{name}.csv"},
        "columns": {"inputs": "text", "label": "label"},
        "labels": [NAMES[group] for group in groups],
        "license": {"package": "none", "data": "CC0"},
        "near_duplicate": 1.0,
        "split": {"validation": 0.25, "test": 0.35},
        **more,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(annotation))
    return str(folder / f"{name}.yaml")


def tuned(base: Path, target: Path, groups: tuple[int, ...], *, noise: float = 0.0) -> str:
    """Copy the base and give the words of some groups vectors of their own."""
    shutil.copytree(base, target)
    weights = load_file(target / "model.safetensors")
    generator = torch.Generator().manual_seed(sum(groups) + 7)
    for group in groups:
        direction = 3.0 * torch.randn(16, generator=generator)
        for word in GROUPS[group]:
            weights[EMBEDDINGS][4 + WORDS.index(word)] += direction
    for word in FILLERS if noise else ():
        weights[EMBEDDINGS][4 + WORDS.index(word)] += noise * torch.randn(16, generator=generator)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return str(target)


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    root = tmp_path_factory.mktemp("auto")
    base = tiny_bert(root / "base", dropout=0.0)
    weights = load_file(base / "model.safetensors")
    for group in GROUPS:
        for word in group:
            weights[EMBEDDINGS][4 + WORDS.index(word)] = 0.0
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    experts = {
        "films": tuned(base, root / "films", (0, 1)),
        "balls": tuned(base, root / "balls", (2, 3)),
        "noise": tuned(base, root / "noise", (), noise=0.3),
    }
    tasks = {
        "four": write_task(root, "four", (0, 1, 2, 3), 460),
        "two": write_task(root, "two", (0, 1), 460),
        "small": write_task(root, "small", (0, 1), 110),
    }
    return World(str(base), experts, tasks)


@pytest.fixture(scope="session")
def headed(world) -> str:
    """Give the films expert the head of the task of two classes."""
    from taskloom.evaluation.load import load_task

    data = load_task(world.tasks["two"], max_train=96)
    features = Encoder.load(world.experts["films"]).features(data.train.inputs)
    head = fit_head(features, data.train.labels, data.task.label_names, task="two")
    head.save(world.experts["films"])
    return world.experts["films"]


@pytest.fixture
def paced(monkeypatch):
    """Make clocks that move with the work of models, the last one made being on.

    Training takes no time on them, done now or found done.
    """
    on: list[Paced] = []
    train = making.train_here

    def at_once(*words, **given):
        return replace(train(*words, **given), seconds=0.0)

    monkeypatch.setattr(making, "train_here", at_once)
    real = Encoder.features

    def features(self, inputs, **given):
        if on:
            on[-1].work(len(inputs))
        return real(self, inputs, **given)

    monkeypatch.setattr(Encoder, "features", features)

    def make(**given: Any) -> Paced:
        on.append(Paced(**given))
        return on[-1]

    return make
