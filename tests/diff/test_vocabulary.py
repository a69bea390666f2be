"""Changed rows of embeddings, by token where a tokenizer lies beside the weights."""

import json
import math

import pytest
import torch

import taskloom
from taskloom.choose.diff.vocabulary import is_embedding
from taskloom.store.checkpoint import TensorInfo

from .fixture import VOCABULARY, base, write

WORDS = "bert.embeddings.word_embeddings.weight"


def changed(start):
    weights = {name: value.clone() for name, value in start.items()}
    weights[WORDS][4] *= 1.5
    weights[WORDS][7] *= 1.2
    weights[WORDS][20, 3] += 1e-3
    return weights


def words(found, expert="a"):
    return next(e for e in found.vocabulary if e.tensor == WORDS and e.expert == expert)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("model.embed_tokens.weight", (9, 4), True),
        ("transformer.wte.weight", (9, 4), True),
        ("transformer.wpe.weight", (9, 4), True),
        ("shared.weight", (9, 4), True),
        ("lm_head.weight", (9, 4), True),
        ("embeddings.token_type_embeddings.weight", (2, 4), True),
        ("embeddings.LayerNorm.weight", (4,), False),
        ("lm_head.bias", (9,), False),
        ("encoder.layer.0.output.dense.weight", (9, 4), False),
        ("layers.0.embed_q.weight", (9, 4), False),
        ("vision.embeddings.patch_embedding.weight", (9, 3, 4, 4), False),
    ],
)
def test_which_tensors_have_a_vocabulary(name, shape, expected):
    assert is_embedding(name, TensorInfo(shape, torch.float32)) is expected


@pytest.mark.parametrize("elements", [1, 24, 10**6])
def test_rows_and_tokens_most_changed_first(tmp_path, elements):
    start = base()
    folder = write(tmp_path / "base", start, VOCABULARY)
    entry = words(taskloom.diff(folder, {"a": changed(start)}, slice_elements=elements))
    assert (entry.rows, entry.changed) == (30, 3)
    assert [row.token for row in entry.most] == ["word4", "word7", "word20"]
    assert [row.number for row in entry.most] == [4, 7, 20]
    assert entry.most[0].change == pytest.approx(0.5, rel=1e-6)
    norm = float(start[WORDS][20].double().norm())
    assert entry.most[2].change == pytest.approx(1e-3 / norm, rel=1e-3)


def test_the_list_is_cut_and_the_count_is_not():
    start = base()
    entry = words(taskloom.diff(start, {"a": changed(start)}, rows=1))
    assert entry.changed == 3
    assert [(row.number, row.token) for row in entry.most] == [(4, None)]
    assert words(taskloom.diff(start, {"a": changed(start)}, rows=0)).most == ()


def test_rows_filled_from_zero_come_first():
    start = base()
    start[WORDS][11] = 0.0
    weights = changed(start)
    weights[WORDS][11] = 1e-6
    first = words(taskloom.diff(start, {"a": weights})).most[0]
    assert (first.number, first.change) == (11, None)


def test_an_unchanged_embedding_lists_nothing():
    start = base()
    entry = words(taskloom.diff(start, {"a": start}))
    assert (entry.changed, entry.most) == (0, ())


def test_positions_have_no_tokens(tmp_path):
    start = base()
    weights = {n: v + 0.1 for n, v in start.items()}
    found = taskloom.diff(write(tmp_path / "base", start, VOCABULARY[:5]), {"a": weights})
    entry = next(e for e in found.vocabulary if "position" in e.tensor)
    assert entry.changed == 12
    assert all(row.token is None for row in entry.most)


FILES = {
    "unigram": ("tokenizer.json", {"model": {"vocab": [[w, -1.0] for w in VOCABULARY]}}),
    "added": (
        "tokenizer.json",
        {"model": {"vocab": {w: i for i, w in enumerate(VOCABULARY[:29])}},
         "added_tokens": [{"id": 29, "content": "word29"}, {"id": 4, "content": "word4"}]},
    ),
    "json": ("vocab.json", {w: i for i, w in enumerate(VOCABULARY)}),
    "lines": ("vocab.txt", "\n".join(VOCABULARY)),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_file(tmp_path, kind):
    name, content = FILES[kind]
    folder = write(tmp_path / "base", base())
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    entry = words(taskloom.diff(folder, {"a": changed(base())}))
    assert [row.token for row in entry.most] == ["word4", "word7", "word20"]


def test_an_experts_tokenizer_serves_too(tmp_path):
    start = base()
    folder = write(tmp_path / "tuned", changed(start), VOCABULARY)
    found = taskloom.diff(start, {"a": folder})
    assert words(found).most[0].token == "word4"


@pytest.mark.parametrize(
    "text", ["{", "[]", "null", '{"model": 3}', '{"model": {"vocab": {"a": "x"}}}', '{"model": {}}']
)
def test_a_broken_tokenizer_is_named_and_rows_go_by_number(tmp_path, text):
    folder = write(tmp_path / "base", base())
    (folder / "tokenizer.json").write_text(text)
    found = taskloom.diff(folder, {"a": changed(base())})
    (finding,) = found.findings
    assert finding.kind == "tokenizer"
    assert "tokenizer.json is not a vocabulary that can be read" in finding.message
    assert words(found).most[0].token is None


def test_a_vocabulary_larger_than_the_embedding_is_not_its_own(tmp_path):
    folder = write(tmp_path / "base", base(), [f"t{i}" for i in range(31)])
    assert words(taskloom.diff(folder, {"a": changed(base())})).most[0].token is None


def test_not_finite_embeddings_are_left_out():
    start = base()
    weights = changed(start)
    weights[WORDS][0, 0] = math.nan
    found = taskloom.diff(start, {"a": weights})
    assert all(entry.tensor != WORDS for entry in found.vocabulary)
