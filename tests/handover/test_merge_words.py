"""``taskloom merge --tokenizer ... --chat-template ...``: whose words the merged model speaks."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from taskloom.cli.main import invoke
from taskloom.store.tokenizer import read_chat_template, read_vocabulary, write_chat_template

from .test_vocabulary import EMBEDDING, WORDS, tiny_llama

LONGER = [*WORDS[:2], "film", "good", "plot"]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A base, an expert with one more token, one with another order and another word."""
    root = tmp_path_factory.mktemp("zoo")
    tiny_llama(root / "base", WORDS)
    tiny_llama(root / "same", WORDS, seed=4)
    tiny_llama(root / "call", WORDS, late=["<call>"], seed=1)
    tiny_llama(root / "plot", LONGER, seed=2)
    write_chat_template(root / "same", "{{ 'same' }}")
    write_chat_template(root / "plot", None)
    return root


@pytest.fixture
def merge(zoo, tmp_path, capsys):
    def call(*more, experts=("call", "plot"), base="base", out="out"):
        words = ["merge", "--method", "average", "-o", str(tmp_path / out)]
        words += ["--base", str(zoo / base)] if base else []
        for name in experts:
            words += ["--expert", str(zoo / name)]
        status = invoke([*words, *map(str, more)])
        return status, capsys.readouterr().err, tmp_path / out

    return call


def test_unequal_vocabularies_are_refused_with_the_way_out(merge):
    status, err, out = merge()
    assert status == 3
    assert "--tokenizer union" in err
    assert not out.exists()


def test_a_union(merge, zoo):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    status, err, out = merge("--tokenizer", "union")
    assert status == 0, err
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
    assert set(tokenizer.get_vocab()) == {*WORDS, "<call>", "plot"}
    table = model.get_input_embeddings().weight
    assert table.shape[0] == len(tokenizer) == model.config.vocab_size
    call, plot = (load_file(zoo / name / "model.safetensors")[EMBEDDING] for name in ("call", "plot"))
    number = tokenizer.convert_tokens_to_ids
    torch.testing.assert_close(table[number("good")], (call[2] + plot[3]) / 2)
    torch.testing.assert_close(table[number("<call>")], call[5])
    torch.testing.assert_close(table[number("plot")], plot[4])
    assert model(torch.tensor([[number("plot")]])).logits.isfinite().all()


def test_verify_unites_again(merge):
    status, err, out = merge("--tokenizer", "union")
    assert status == 0, err
    assert invoke(["verify", str(out), "--all"]) == 0
    record = json.loads((out / "taskloom.json").read_text())
    assert record["sources"]["tokenizer"] == "union"


def test_a_union_without_a_base_takes_the_order_of_the_first(merge):
    status, err, out = merge("--tokenizer", "union", base=None)
    assert status == 0, err
    ids = read_vocabulary(out).ids
    assert [ids[word] for word in (*WORDS, "<call>", "plot")] == list(range(7))
    assert invoke(["verify", str(out)]) == 0


def test_explain_knows_of_the_union(merge):
    assert merge("--tokenizer", "union", "--check")[0] == 0
    assert merge("--check")[0] == 3


def test_another_models_tokenizer(merge, zoo):
    status, err, out = merge("--tokenizer", "same", experts=("same", "base"))
    assert status == 0, err
    assert read_vocabulary(out).ids == read_vocabulary(zoo / "same").ids
    assert read_chat_template(out) == "{{ 'same' }}"
    status, err, out = merge("--tokenizer", zoo / "plot", experts=("same",), out="other")
    assert status == 0, err
    assert "plot" in read_vocabulary(out).ids


def test_a_tokenizer_that_is_too_large(merge, zoo):
    status, err, out = merge("--tokenizer", zoo / "call", experts=("same",))
    assert status == 3
    assert "5 rows" in err
    assert "--tokenizer union" in err
    assert not out.exists()


def test_chat_templates(merge, zoo, tmp_path):
    status, err, out = merge("--chat-template", "same", experts=("same",))
    assert status == 0, err
    assert read_chat_template(out) == "{{ 'same' }}"
    status, _, out = merge("--chat-template", "none", experts=("same",), out="none")
    assert status == 0
    assert read_chat_template(out) is None
    (tmp_path / "mine.jinja").write_text("{{ 'mine' }}")
    status, _, out = merge("--chat-template", tmp_path / "mine.jinja", experts=("same",), out="mine")
    assert status == 0
    assert read_chat_template(out) == "{{ 'mine' }}"
    status, _, out = merge(experts=("same",), out="own")
    assert read_chat_template(out) == read_chat_template(zoo / "base")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--tokenizer", "unoin"], 2, "Did you mean 'union'?"),
        (["--tokenizer", "sam"], 2, "Did you mean 'same'?"),
        (["--chat-template", "xyz"], 2, "There are: same, base"),
        (["--chat-template", "plot-as"], 2, "neither"),
    ],
)
def test_what_is_refused(merge, words, status, said):
    found, err, out = merge(*words, experts=("same",))
    assert found == status
    assert said in err
    assert not out.exists()


def test_a_model_without_a_template(merge, zoo):
    status, err, out = merge("--chat-template", zoo / "plot", experts=("same",))
    assert status == 3
    assert "has none" in err
    assert not out.exists()
