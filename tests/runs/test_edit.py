"""taskloom edit: add, negate, analogy, with the small plan's experts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from taskloom.errors import OutputError, PlanError
from taskloom.evaluation.data import SealedSplit
from taskloom.evaluation.interval import paired_difference
from taskloom.evaluation.load import load_task
from taskloom.evaluation.score import Score
from taskloom.models.encoder import Encoder
from taskloom.runs.desk import open_desk
from taskloom.runs.edit import SCALES, Change, edit, sentence
from taskloom.runs.plan import Limits
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

from .conftest import MICRO

LIMITS = Limits(**MICRO["limits"])
PARITY, MOD3 = MICRO["pool"]


def read(path):
    checkpoint = SafetensorsCheckpoint(path)
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


def predicted(base, weights, task, split):
    """Labels and predictions, by another way than the edit's."""
    desk = open_desk(base, seed=0, progress=lambda *_: None)
    data = load_task(task, seed=0, max_train=60, max_validation=40, max_test=60)
    examples = data.validation if split == "validation" else data.test.open("test")
    features = Encoder.load(base).features(examples.inputs, weights=weights)
    return examples.labels, desk.head(data).predict(features)


def moved(base, taus, scale):
    """The base plus a scale times task vectors with signs."""
    start = read(base)
    found = {}
    for name, tensor in start.items():
        change = sum(sign * (read(path)[name] - tensor) for sign, path in taus)
        found[name] = tensor + scale * change if tensor.is_floating_point() else tensor
    return found


def test_scales_of_the_paper():
    assert SCALES[0] == 0.05
    assert SCALES[-1] == 1.0
    assert len(SCALES) == 20


@pytest.mark.parametrize("kind", ["add", "negate", "analogy"])
def test_a_given_scale_is_reported_with_intervals(base, experts, tmp_path, kind):
    one, two = experts
    pool = {"add": [one, two], "negate": [one], "analogy": [one, two, one]}[kind]
    signs = {"add": [1, 1], "negate": [-1], "analogy": [-1, 1, 1]}[kind]
    found = edit(
        kind, [PARITY], base, {f"e{k}": p for k, p in enumerate(pool)}, controls=[MOD3],
        scale=0.8, limits=LIMITS, output=tmp_path / "out",
    )  # fmt: skip
    assert (found.scale, found.chosen, found.tried) == (0.8, "given", ())
    weights = moved(base, list(zip(signs, pool, strict=True)), 0.8)
    written = read(found.path)
    for name, tensor in weights.items():
        assert torch.allclose(written[name].float(), tensor.float(), atol=1e-6), name
    assert [(c.task, c.role) for c in found.changes] == [(PARITY, "target"), (MOD3, "control")]
    for change in found.changes:
        labels, before = predicted(base, read(base), change.task, "test")
        _, after = predicted(base, written, change.task, "test")
        assert change.before.value == np.mean(before == labels)
        assert change.after.value == np.mean(after == labels)
        assert change.gain == pytest.approx(change.after.value - change.before.value)
        _, low, high = paired_difference(labels, after, before, metric="accuracy", seed=0)
        assert change.low <= low <= change.gain <= high <= change.high
        assert (change.after.split, change.after.n) == ("test", 60)
    assert f"{PARITY} " in found.sentence
    assert "; beside it " + MOD3 in found.sentence


def test_negation_takes_the_largest_scale_that_keeps_the_controls(base, experts):
    scales = [0.1, 0.5, 2.0, 8.0]
    one = experts[0]
    start = np.mean(np.equal(*predicted(base, read(base), MOD3, "validation")))
    values = [
        np.mean(np.equal(*predicted(base, moved(base, [(-1, one)], s), MOD3, "validation")))
        for s in scales
    ]
    keep = 0.9
    allowed = [value >= keep * start for value in values]
    assert any(allowed)
    found = edit(
        "negate", [PARITY], base, [one], controls=[MOD3], scales=scales, keep=keep, limits=LIMITS
    )
    assert [each.allowed for each in found.tried] == allowed
    assert [each.scores[1].value for each in found.tried] == values
    assert found.scale == max(s for s, fine in zip(scales, allowed, strict=True) if fine)
    assert [each.scale for each in found.tried if each.chosen] == [found.scale]


def test_addition_and_analogy_take_the_best_mean_and_of_equals_the_smallest(base, experts):
    for kind, pool in (("add", experts), ("analogy", [*experts, experts[0]])):
        pool = {f"e{k}": path for k, path in enumerate(pool)}
        found = edit(kind, [PARITY, MOD3], base, pool, scales=[1.0, 0.2, 0.0, 0.5], limits=LIMITS)
        assert [each.scale for each in found.tried] == [0.0, 0.2, 0.5, 1.0]
        means = [sum(s.value for s in each.scores) for each in found.tried]
        assert found.scale == found.tried[means.index(max(means))].scale
        assert found.chosen == "on validation"
        assert {s.split for each in found.tried for s in each.scores} == {"validation"}


def test_choosing_leaves_the_test_split_sealed(base, experts, monkeypatch):
    """Where no scale keeps the controls, nothing was opened."""

    def opened(self, reader):
        raise AssertionError(f"{reader} opened the test split")

    monkeypatch.setattr(SealedSplit, "open", opened)
    with pytest.raises(PlanError, match=r"no scale from 50 to 60 leaves every control task 100%"):
        edit(
            "negate", [PARITY], base, experts[:1], controls=[MOD3], scales=[50, 60], keep=1.0,
            limits=LIMITS,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "tasks", "options", "message"),
    [
        ("forget", [PARITY], {}, "there is no edit 'forget'"),
        ("add", [], {}, "there is none"),
        ("add", [PARITY], {"controls": [PARITY]}, "is named twice"),
        ("add", [PARITY], {"scale": -1.0}, "not a number from 0"),
        ("add", [PARITY], {"scale": float("nan")}, "not a number from 0"),
        ("add", [PARITY], {"scales": []}, "no scale to choose from"),
        ("add", [PARITY], {"keep": 0.0}, "keep is 0"),
        ("negate", [PARITY], {}, "there are none"),
        ("analogy", [PARITY], {}, "exactly 3 experts"),
    ],
)
def test_what_cannot_be_is_refused(base, experts, kind, tasks, options, message):
    with pytest.raises(PlanError, match=message):
        edit(kind, tasks, base, experts, limits=LIMITS, **options)


def test_an_output_that_exists_is_refused_at_once(base, experts, tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(OutputError, match="exists"):
        edit("add", [PARITY], "/nowhere", experts, output=tmp_path)


def change(task, role, before, after, low, high):
    def of(value):
        return Score("m", task, "test", "accuracy", value, value - 0.1, value + 0.1, "wilson", 50, 0)

    return Change(task, role, of(before), of(after), after - before, low, high)


def test_the_sentence():
    told = sentence(
        "negate",
        0.5,
        [
            change("spam", "target", 0.9, 0.5, -0.5, -0.3),
            change("trec", "control", 0.8, 0.81, -0.02, 0.04),
        ],
    )
    assert told == (
        "Forgetting with scale 0.5: spam falls from 90.0 to 50.0 (-40.0 points, 95 % interval -50.0 to "
        "-30.0, n = 50); beside it trec stays within chance from 80.0 to 81.0 (+1.0 points, "
        "95 % interval -2.0 to +4.0, n = 50)."
    )


def test_on_the_command_line(cli, base, experts, tmp_path):
    words = ["--base", base, "--expert", experts[0], "--task", PARITY, "--control", MOD3]
    status, out, err = cli(
        "edit", "negate", *words, "--scales", "0.05,0.1", "--keep", "0.5", "-o", tmp_path / "m"
    )
    assert status == 0, err
    for part in ("Scales on validation", "Test scores before and after", "Forgetting with", "wrote "):
        assert part in out
    status, out, err = cli("edit", "negate", *words, "--scale", "0.3", "--json")
    assert json.loads(out)["scale"] == 0.3
    status, _, err = cli("edit", "negate", *words, "--scale", "0.3", "--scales", "0.3")
    assert (status, err.count("\n")) == (2, 1)
    status, _, err = cli("edit", "negate", *words, "--scales", "a,b")
    assert (status, "is no list of numbers" in err) == (2, True)
