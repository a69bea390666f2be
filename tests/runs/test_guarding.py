"""Compositions against their rivals: who wins is handed over, be it what it may."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import taskloom
from taskloom.cli.main import invoke
from taskloom.errors import DataError, IntegrityError, PlanError
from taskloom.learn.mixed import Part, train_mixture
from taskloom.learn.options import TrainOptions
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head, head_names
from taskloom.progress import silent
from taskloom.runs import guarding
from taskloom.runs.desk import open_desk
from taskloom.runs.fit import fit
from taskloom.runs.guarding import guard_composition, tell
from taskloom.runs.plan import Limits
from taskloom.runs.seen import Seen, deal
from taskloom.store.pool import open_pool

from .conftest import MICRO

TASK = MICRO["pool"][0]
LIMITS = Limits(**MICRO["limits"])
#: a fine-tune that stays the base, and one that learns the task
NEVER = {"steps": 1, "learning_rate": 1e-9}
WELL = {"steps": 60, "learning_rate": 0.01}
#: the sum of task vectors, four times each, as good as unfitted
SUM = {"steps": 1, "rate": 1e-9, "start": 4.0, "per": "task"}
pytestmark = pytest.mark.usefixtures("sealed")


def weights(folder):
    return load_file(f"{folder}/model.safetensors")


def moved(base, folder, change):
    """Write the base plus a change of every weight that is a matrix."""
    shutil.copytree(base, folder)
    stored = weights(base)
    save_file({n: t + change.get(n, 0) for n, t in stored.items()}, folder / "model.safetensors")
    return str(folder)


@pytest.fixture(scope="session")
def trained(base, tmp_path_factory):
    """What training makes of the base's weights on the task, as a task vector."""
    desk = open_desk(base, seed=0, progress=silent)
    data = desk.load(TASK, LIMITS)
    split = data.train.inputs, data.train.labels
    options = TrainOptions.parse({**WELL, "batch_size": 16})
    cache = tmp_path_factory.mktemp("trained")
    made = train_mixture(base, [Part(desk.head(data), split, split)], options, cache=cache)
    stored = weights(base)
    return {name: tensor - stored[name] for name, tensor in weights(made.directory).items()}


@pytest.fixture(scope="session")
def noise(base):
    generator = torch.Generator().manual_seed(1)
    return {n: torch.randn(t.shape, generator=generator) for n, t in weights(base).items()}


@pytest.fixture
def pools(base, trained, noise, tmp_path):
    """Experts by who should win."""
    half = {n: t / 4 for n, t in trained.items()}
    return {
        "expert": {
            "good": moved(base, tmp_path / "good", trained),
            "bad": moved(base, tmp_path / "bad", noise),
        },
        "fine-tune": {
            "bad": moved(base, tmp_path / "worse", noise),
            "same": moved(base, tmp_path / "same", {}),
        },
        "composition": {
            "plus": moved(base, tmp_path / "plus", {n: half[n] + noise[n] for n in half}),
            "minus": moved(base, tmp_path / "minus", {n: -noise[n] for n in half}),
        },
    }


def guarded(pools, which, base, **more):
    given = {"options": SUM, "tune": NEVER, "guard": "strict", "limits": LIMITS, **more}
    return fit("self_positioning", [TASK], base, pools[which], **given)


def test_an_expert_that_beats_every_composition_is_handed_over(base, pools, tmp_path, capsys):
    found = guarded(pools, "expert", base, output=tmp_path / "out")
    verdict = found.verdict
    assert (verdict.winner, verdict.kind, verdict.refused) == ("good", "expert", ("fitted",))
    assert verdict.best_expert == "good"
    assert verdict.reason.startswith("the expert good wins: its mean validation score is ")
    assert list(found.scored) == ["base", "good", "bad", "average", "fine-tune", "fitted"]
    margin = verdict.margin("good", TASK)
    assert margin.low <= margin.gain <= margin.high
    assert margin.gain < 0
    assert margin.n == 40
    written, expert = weights(tmp_path / "out"), weights(pools["expert"]["good"])
    assert all(torch.equal(written[name], expert[name]) for name in expert)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "The expert good wins" in card
    assert f"| good | {TASK} | {margin.gain:+.4f} |" in card
    record = json.loads((tmp_path / "out" / "taskloom.json").read_text())
    assert record["model"] == "good"
    assert record["guard"]["winner"] == "good"
    head = Head.load(tmp_path / "out", TASK)
    desk = open_desk(base, seed=0, progress=silent)
    data = desk.load(TASK, LIMITS)
    features = Encoder.load(tmp_path / "out").features(data.validation.inputs)
    right = np.mean(head.predict(features) == data.validation.labels)
    assert right == pytest.approx(found.scored["good"].value)


def test_a_guard_that_warns_writes_the_composition_and_says_what_it_loses_to(base, pools, tmp_path):
    found = guarded(pools, "expert", base, guard="warn", output=tmp_path / "out")
    assert found.verdict.winner == "fitted"
    assert found.verdict.refused == ("fitted",)
    assert "fitted is handed over all the same" in found.verdict.reason
    assert "The expert good wins" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "taskloom.json").read_text())["recipe"]


def test_a_fine_tune_that_wins_is_handed_over(base, pools, tmp_path):
    found = guarded(pools, "fine-tune", base, tune=WELL, output=tmp_path / "out")
    assert (found.verdict.winner, found.verdict.kind) == ("fine-tune", "fine-tune")
    assert found.scored["fine-tune"].value > found.scored["base"].value
    assert "Fine-tune wins" in (tmp_path / "out" / "README.md").read_text()
    desk = open_desk(base, seed=0, progress=silent)
    data = desk.load(TASK, LIMITS)
    features = Encoder.load(tmp_path / "out").features(data.validation.inputs)
    right = np.mean(desk.head(data).predict(features) == data.validation.labels)
    assert right == pytest.approx(found.scored["fine-tune"].value)


def test_a_composition_that_beats_everybody_is_handed_over(base, pools, tmp_path):
    found = guarded(pools, "composition", base, output=tmp_path / "out")
    assert (found.verdict.winner, found.verdict.kind) == ("fitted", "composition")
    assert found.verdict.refused == ()
    others = [row.value for name, row in found.scored.items() if name != "fitted"]
    assert found.scored["fitted"].value > max(others)
    assert "Fitted wins" in (tmp_path / "out" / "README.md").read_text()
    taskloom.verify(tmp_path / "out", everything=True)
    assert head_names(tmp_path / "out") == (TASK,)
    (tmp_path / "out" / "heads" / f"{TASK}.safetensors").write_bytes(b"other")
    with pytest.raises(IntegrityError, match=r"heads/digits_parity\.safetensors"):
        taskloom.verify(tmp_path / "out", everything=True)


def test_the_fine_tune_has_the_labels_of_the_fit_and_is_found_again(base, named, monkeypatch):
    seen = []

    def train(folder, parts, options, **more):
        made = train_mixture(folder, parts, options, **more)
        seen.append((parts, options, made.cached))
        return made

    monkeypatch.setattr(guarding, "train_mixture", train)
    tasks = list(MICRO["pool"])
    more = {"options": {"steps": 1}, "limits": LIMITS, "examples": 24, "seed": 5}
    for _ in range(2):
        found = fit("adamerging", tasks, base, named, tune={"epochs": 1}, **more)
    (parts, options, first), (_, _, second) = seen
    assert [len(part.train[1]) for part in parts] == [24, 24]
    assert found.fitted.said["examples"] == "digits_parity 24, digits_mod3 24"
    assert options.steps == guarding.STEPS
    assert (first, second) == (False, True)
    without = fit("adamerging", tasks, base, named, tuned=False, **more)
    assert "fine-tune" not in without.scored
    assert without.verdict.absent == {"fine-tune": "it was not asked for"}
    assert len(seen) == 2


def test_with_few_labels_everything_is_made_anew_for_every_fold(base, named, monkeypatch, tmp_path):
    fits, trainings = [], []
    problem, train = Seen.problem, train_mixture

    def watched(self, *words, **more):
        fits.append(self)
        return problem(self, *words, **more)

    def tuning(folder, parts, options, **more):
        trainings.append(parts)
        return train(folder, parts, options, **more)

    monkeypatch.setattr(Seen, "problem", watched)
    monkeypatch.setattr(guarding, "train_mixture", tuning)
    found = fit(
        "self_positioning",
        [TASK],
        base,
        named,
        options={"steps": 1},
        labels=16,
        tune={"steps": 1},
        output=tmp_path / "out",
    )
    assert (found.verdict.split, found.verdict.folds) == ("cross-validation", 5)
    assert found.scored["fitted"].scores[0].n == 16
    assert [seen.number for seen in fits] == [0, 1, 2, 3, 4, 5]
    assert found.fitted.said["examples"] == f"{TASK} 16"
    images = [{i.tobytes() for i in seen.tasks[TASK].train.inputs} for seen in fits]
    assert len(set.intersection(*images[1:])) == 0  # each label is held out of one fold
    assert all(len(each) in (12, 13) for each in images[1:])
    for seen, (part,) in zip(fits[1:], trainings, strict=True):
        assert part.train[0] is seen.tasks[TASK].train.inputs
        assert part.head is seen.tasks[TASK].head
    assert len({seen.tasks[TASK].head.digest() for seen in fits}) == 6


def test_what_is_asked_about_a_fold_has_not_seen_it(base, named):
    """A composition that knows by heart what it saw is wrong about all it did not see."""
    desk = open_desk(base, seed=0, progress=silent)
    data = desk.load(TASK, LIMITS, labels=24)
    pool = open_pool(base, list(named.values()), names=list(named))

    def by_heart(seen):
        shots = seen.tasks[TASK]
        known = {i.tobytes(): y for i, y in zip(shots.train.inputs, shots.train.labels, strict=True)}
        told = dict(zip((i.tobytes() for i in everything), truth, strict=True))
        return lambda task, inputs: np.array(
            [known.get(i.tobytes(), 1 - told[i.tobytes()]) for i in inputs]
        )

    everything = np.concatenate([data.train.inputs, data.validation.inputs])
    truth = np.concatenate([data.train.labels, data.validation.labels])
    contest = guard_composition(deal(desk, pool, [data]), {"by heart": by_heart}, tune={"steps": 1})
    assert contest.verdict.values["by heart"] == 0
    assert contest.verdict.winner != "by heart"
    with pytest.raises(PlanError, match="'by heart' is no rival that the guard holds"):
        contest.write("by heart", "nowhere")


def test_names_and_labels_that_do_not_fit(base, named, tmp_path):
    for name in ("base", "average", "fine-tune", "fitted"):
        with pytest.raises(PlanError, match=f"an expert is called '{name}'"):
            fit("adamerging", [TASK], base, {name: named["parity"]}, options={"steps": 1}, limits=LIMITS)
    other = tmp_path / "other"
    shutil.copytree(named["parity"], other)
    head = Head.load(other, TASK)
    Head(head.weight, head.bias, ("odd", "even"), TASK).save(other)
    with pytest.raises(DataError, match=r"has the labels even, odd, but the head of the expert 'p'"):
        fit("adamerging", [TASK], base, {"p": str(other)}, limits=LIMITS)
    with pytest.raises(DataError, match="labels are too few"):
        fit("adamerging", [TASK], base, named, labels=2)
    with pytest.raises(PlanError, match="training: unknown option 'stepps'"):
        fit("adamerging", [TASK], base, named, options={"steps": 1}, tune={"stepps": 1}, limits=LIMITS)


def test_a_card_is_added_to(base, named, tmp_path):
    desk = open_desk(base, seed=0, progress=silent)
    pool = open_pool(base, list(named.values()), names=list(named))
    dealt = deal(desk, pool, [desk.load(TASK, LIMITS)])
    zeros = {"zeros": lambda seen: lambda task, inputs: np.zeros(len(inputs), dtype=np.int64)}
    contest = guard_composition(dealt, zeros, tuned=False)
    (tmp_path / "README.md").write_text("# Mine\n")
    tell(tmp_path, contest)
    text = (tmp_path / "README.md").read_text()
    assert head_names(tmp_path) == (TASK,)
    assert text.startswith("# Mine\n\n## Why this model\n")
    assert "zeros minus each rival on the validation split" in text


def test_the_verb(base, pools, tmp_path, capsys):
    words = ["fit", "self_positioning", "--base", base, "--task", TASK, "--labels", "24"]
    words += [w for n, path in pools["expert"].items() for w in ("--expert", f"{n}={path}")]
    words += [w for name, value in SUM.items() for w in ("--set", f"{name}={value}")]
    words += ["--guard", "strict", "--tune", "steps=1", "-o", str(tmp_path / "out")]
    assert invoke(words) == 0
    told = capsys.readouterr().out
    assert "By 5-fold cross-validation" in told
    assert "fitted minus each rival" in told
    assert "in 5-fold cross-validation" in told
    assert f"wrote {tmp_path / 'out'}" in told
    assert invoke([*words, "--force", "--no-fine-tune"]) == 0
    assert "fine-tune was not tried: it was not asked for" in capsys.readouterr().out
