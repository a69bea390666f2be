"""taskloom group: what choosers look at is made from models, tasks and files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from taskloom.choose.cka import cka_matrix
from taskloom.choose.sets import facility_location, know2vec
from taskloom.choose.task_vectors import cosine_matrix
from taskloom.errors import DataError, PlanError, UnknownName
from taskloom.evaluation.load import load_task
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head
from taskloom.registry import entries
from taskloom.runs.group import drop_words, group, looked_at, read_matrix
from taskloom.store.pool import open_pool
from tiny_models import tiny_bert

from .conftest import MICRO, text_task, with_head

LABELS = 40


@pytest.fixture
def pool(experts, tmp_path):
    """The two experts and a copy of the first, which knows what it was trained on."""
    copy = Path(shutil.copytree(experts[0], tmp_path / "copy"))
    return {**dict(zip(MICRO["pool"], experts, strict=True)), "copy": str(copy)}


def seen(pool):
    data = load_task("digits_ten", n_labels=LABELS)
    inputs = np.concatenate([data.train.inputs, data.validation.inputs])
    return [Encoder.load(path).features(inputs) for path in pool.values()]


def test_likeness_through_the_target_and_of_weights(base, pool):
    through = group(
        "facility_location", target="digits_ten", base=base, experts=pool, n_labels=LABELS, size=2
    )
    wanted = facility_location(cka_matrix(seen(pool)), size=2)
    assert through.choice.chosen == wanted.chosen
    np.testing.assert_allclose(through.choice.values, wanted.values, atol=1e-4)
    assert sorted(map(sorted, through.groups.values())) == [["copy", "digits_parity"], ["digits_mod3"]]
    of_weights = group("facility_location", base=base, experts=pool, size=1)
    table = cosine_matrix(open_pool(base, list(pool.values()), names=list(pool)))
    assert of_weights.choice.chosen == facility_location(table, size=1).chosen


def test_by_how_the_target_is_learned(base, pool):
    found = group("stg_mtl", target="digits_ten", base=base, experts=pool, n_labels=LABELS, size=2)
    assert found.choice.groups == (0, 1, 0)
    assert found.choice.membership is not None


def test_by_examples_of_the_sources(base, pool):
    found = group(
        "consistency_diversity", target="digits_ten", base=base, experts=pool, n_labels=LABELS,
        size=3, bandwidth=2.0, least_gain=0.05,
    )  # fmt: skip
    assert 1 <= len(found.chosen) <= 3
    assert len(found.choice.reasons) == 3


def test_by_answers(base, pool):
    """The two sources read the same digits: each expert's own task finds its model."""
    asked = {"base": base, "experts": dict(list(pool.items())[:2]), "n_labels": 200, "size": 1}
    for name in MICRO["pool"]:
        assert group("know2vec", target=name, aligned=False, **asked).chosen == (name,)
    names = [entry.name for entry in entries("set")]
    assert "know2vec" in names
    assert looked_at(next(e for e in entries("set") if e.function is know2vec))[0] == "model_vectors"


@pytest.fixture
def text_pool(tmp_path):
    """A tiny text model that is base and expert at once, and the task that its head is of."""
    folder = tiny_bert(tmp_path / "bert")
    task = text_task(tmp_path, "kinds", 80)
    expert = with_head(Path(shutil.copytree(folder, tmp_path / "expert")), task)
    return str(folder), {"kinds": expert}, {"kinds": str(task)}


def test_texts_are_perturbed(text_pool):
    base, pool, trained_on = text_pool
    found = group("prompt_uncertainty", base=base, experts=pool, trained_on=trained_on, size=1)
    assert found.chosen == ("kinds",)
    head = Head.load(pool["kinds"], "kinds")
    inputs = load_task(trained_on["kinds"]).train.inputs[:32]
    encoder, random = Encoder.load(base), np.random.default_rng(0)
    plain = head.probabilities(encoder.features(inputs))
    moves = []
    for _ in range(8):
        other = [drop_words(text, 0.2, random) for text in inputs]
        now = head.probabilities(encoder.features(other))
        moves += [abs(q[p.argmax()] - p.max()) for p, q in zip(plain, now, strict=True)]
    assert found.choice.values == (pytest.approx(np.mean(moves), abs=1e-5),)


def test_a_matrix_from_a_file(tmp_path, cli):
    path = tmp_path / "alike.csv"
    path.write_text(",a,b,c\na,1,0.9,0\nb,0.9,1,0.1\nc,0,0.1,1\n", encoding="utf-8")
    found = group("facility_location", matrix=path, size=2)
    assert found.names == ("a", "b", "c")
    assert found.groups == {"b": ["a", "b"], "c": ["c"]}
    status, out, err = cli("group", "facility_location", "--matrix", path, "--size", 2)
    assert status == 0, err
    assert "2 of 3 taken" in out
    assert "at least" in out
    status, out, _ = cli("group", "mbc", "--matrix", path, "--set", "size=2", "--json")
    told = json.loads(out)
    assert (status, told["groups"]) == (0, {"a": ["a", "b"], "c": ["c"]})
    status, _, err = cli("group", "facility_location", "--matrix", tmp_path / "none.csv")
    assert status == 4
    assert "cannot be read" in err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected a row of names"),
        (",a\na,1,2\n", "expected a row of names"),
        (",a\na,1\na,2\n", "a name of its own"),
        (",a\na,x\n", "expected numbers"),
    ],
)
def test_a_malformed_matrix(tmp_path, text, told):
    path = tmp_path / "m.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=told):
        read_matrix(path)


def test_what_is_missing_is_said(base, pool, tmp_path):
    with pytest.raises(UnknownName, match="unknown set chooser 'facility'"):
        group("facility")
    with pytest.raises(PlanError, match="there are neither models nor a matrix"):
        group("mbc")
    with pytest.raises(PlanError, match="a matrix is none of it"):
        group("know2vec", matrix=tmp_path / "m.csv")
    with pytest.raises(PlanError, match="needs a target task"):
        group("stg_mtl", base=base, experts=pool)
    with pytest.raises(PlanError, match="expected a LoRA adapter"):
        group("mbc", base=base, experts=pool)
    with pytest.raises(PlanError, match=r"which models do not say\. Give it as --matrix"):
        group("bento", base=base, experts=pool)
    with pytest.raises(PlanError, match="unknown option 'sise'"):
        group("mbc", base=base, experts=pool, sise=3)
    with pytest.raises(DataError, match="found 4 of 3"):
        group("facility_location", base=base, experts=pool, size=4)
    bare = Path(shutil.copytree(pool["copy"], tmp_path / "bare"))
    shutil.rmtree(bare / "heads")
    with pytest.raises(DataError, match=r"'bare': know2vec looks at the source's own head"):
        group("know2vec", target="digits_ten", base=base, experts={"bare": str(bare)}, n_labels=LABELS)
    with pytest.raises(DataError, match=r"'bare': consistency_diversity .*--trained-on"):
        group(
            "consistency_diversity", target="digits_ten", base=base, experts={"bare": str(bare)},
            n_labels=LABELS,
        )  # fmt: skip
    with pytest.raises(DataError, match="expected texts, which words can be dropped from"):
        group("prompt_uncertainty", base=base, experts=pool, size=1)


def test_words_are_dropped_by_their_share():
    random = np.random.default_rng(0)
    text = " ".join(map(str, range(1000)))
    kept = drop_words(text, 0.2, random).split()
    assert 750 < len(kept) < 850
    assert kept == sorted(kept, key=int)
