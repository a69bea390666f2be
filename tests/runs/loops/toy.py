"""A workshop of tasks that are functions of a few weights: full-batch gradient descent, no encoder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from taskloom.evaluation.score import Score
from taskloom.learn.mixed import deal
from taskloom.runs.loops.journal import Journal
from taskloom.runs.loops.method import Setting
from taskloom.runs.loops.workshop import Reading, Tuned
from taskloom.store.cache import canonical_digest

#: the card's toy C: a linear classifier of two classes, two tasks of two examples each
BASE = torch.tensor([[0.25, -0.125], [0.0, 0.125]], dtype=torch.float64)
INPUTS = {
    "first": torch.tensor([[1.0, 0.25], [-0.75, 0.125]], dtype=torch.float64),
    "second": torch.tensor([[0.125, 1.0], [0.25, -1.0]], dtype=torch.float64),
}


def classify(task):
    """Mean cross entropy of one task of toy C."""
    return lambda w: torch.nn.functional.cross_entropy(INPUTS[task] @ w.T, torch.tensor([0, 1]))


def hill(centre, steepness=1.0):
    """0.5 * sum a (w - c)^2."""
    c, a = (torch.as_tensor(each, dtype=torch.float64) for each in (centre, steepness))
    return lambda w: (0.5 * a * (w - c) ** 2).sum()


def write_model(folder: Path, w) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"w": torch.as_tensor(w, dtype=torch.float64)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


def read_model(model):
    return load_file(model / "model.safetensors")["w"] if isinstance(model, Path) else model["w"]


@dataclass
class ToyShop:
    """Tasks by their losses; ``value`` turns a loss into a score; ``tuned`` counts what was done."""

    losses: dict
    folder: Path
    rate: float = 0.5
    value: object = staticmethod(lambda loss: 1 - loss)
    tuned: list = field(default_factory=list)
    fail_after: int | None = None

    @property
    def tasks(self):
        return tuple(self.losses)

    def tune(self, start, mix, *, steps, seed, judges=()):
        key = canonical_digest([read_model(start).tolist(), mix, steps, seed, list(judges)])
        target = self.folder / key[:16]
        if not target.exists():
            if self.fail_after is not None and len(self.tuned) >= self.fail_after:
                raise KeyboardInterrupt
            self.tuned.append(tuple(mix))
            w, names = read_model(start).clone(), list(mix)
            for turn in deal(list(mix.values()), steps):
                w.requires_grad_(True)
                (slope,) = torch.autograd.grad(self.losses[names[turn]](w), w)
                w = (w - self.rate * slope).detach()
            write_model(target, w)
        return Tuned(target, steps, self.read(target, judges or list(mix)).mean)

    def read(self, model, tasks=None):
        w = read_model(model)
        scores = []
        for task in tasks or self.tasks:
            value = float(self.value(self.losses[task](w)))
            scores.append(
                Score("", task, "validation", "toy", value, value - 0.1, value + 0.1, "none", 9, 0)
            )
        return Reading(tuple(scores))

    def save_head(self, task, model, folder):
        raise AssertionError("a toy has no heads")

    def probing(self):
        return self

    def clear(self):
        for each in self.folder.glob("*/*"):
            each.unlink()
        for each in self.folder.glob("*"):
            each.rmdir()


def setting(tmp_path, losses, start, **more):
    """Return a setting whose start is the given weights."""
    shop = ToyShop(losses, tmp_path / "tuned", **more)
    first = write_model(tmp_path / "start", start)
    return Setting(shop, shop.tasks, first, tmp_path / "rivals")


def play(tmp_path, on, plan, *, keep=True, folder="loop"):
    """Carry out a plan; return its rounds and the weights after every round."""
    journal = Journal(tmp_path / folder, on.start, keep=keep)
    with journal.held():
        rounds = journal.play(on.shop, plan.turn, plan.rounds, plan.judged or None)
    kept = [n for n in range(len(rounds)) if journal.model(n).exists()]
    return rounds, {n: read_model(journal.model(n)) for n in kept}


def facts(rounds):
    """Return rounds without their clocks."""
    return [json.loads(json.dumps({**each.plain(), "seconds": 0})) for each in rounds]
