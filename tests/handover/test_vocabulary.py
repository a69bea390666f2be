"""Embeddings placed by token: numbers by hand, refusals, and real tokenizers."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from taskloom.errors import CheckpointError, MissingExtra, PlanError
from taskloom.merging.api import merge, merge_files
from taskloom.merging.vocabulary import align, align_directories, union, write_tokenizer
from taskloom.store.checkpoint import Checkpoint
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.open import open_checkpoint
from taskloom.store.tokenizer import Vocabulary, read_vocabulary

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def vocabulary(*tokens):
    return Vocabulary({token: number for number, token in enumerate(tokens)})


def checkpoint(*rows, extra=(), dtype=torch.float32, label="<memory>"):
    """One number per token, in an embedding of 2 columns and a head of 3."""
    column = torch.tensor(rows, dtype=dtype)[:, None]
    held = {
        EMBEDDING: column.repeat(1, 2),
        "norm": torch.ones(2, dtype=dtype),
        HEAD: column.repeat(1, 3),
    }
    return MemoryCheckpoint(held | dict(extra), label)


def column(found, name=EMBEDDING):
    value = found.read(name)
    assert (value == value[:, :1]).all()
    return value[:, 0].tolist()


BASE = checkpoint(1, 2, 3), vocabulary("a", "b", "c")


def aligned(*experts, **options):
    return align(
        BASE[0], [each[0] for each in experts], [BASE[1], *(each[1] for each in experts)], **options
    )


def test_by_hand():
    one = checkpoint(20, 10, 40), vocabulary("b", "a", "new")
    two = checkpoint(30, 60, 50), vocabulary("c", "new", "other")
    base, (first, second), alignment = aligned(one, two)
    assert dict(alignment.ids) == {"a": 0, "b": 1, "c": 2, "new": 3, "other": 4}
    assert (alignment.new, alignment.rows) == (("new", "other"), 5)
    assert alignment.tensors == (EMBEDDING, HEAD)
    for name in (EMBEDDING, HEAD):
        assert column(base, name) == [1, 2, 3, 50, 50]
        assert column(first, name) == [10, 20, 3, 40, 50]
        assert column(second, name) == [1, 2, 30, 60, 50]
    assert base.read("norm").tolist() == [1, 1]
    assert {name: info.shape for name, info in base.tensors.items()} == {
        EMBEDDING: (5, 2),
        "norm": (2,),
        HEAD: (5, 3),
    }


def test_zero_instead_of_the_mean():
    one = checkpoint(10, 20, 30, 40), vocabulary("a", "b", "c", "new")
    two = checkpoint(10, 20, 30), vocabulary("a", "b", "c")
    base, (first, second), _ = aligned(one, two, new="zero")
    assert column(base) == [1, 2, 3, 0]
    assert column(first) == [10, 20, 30, 40]
    assert column(second) == [10, 20, 30, 0]


def test_an_average_of_a_new_token_is_the_mean_of_those_that_know_it():
    one = checkpoint(1, 2, 3, 40), vocabulary("a", "b", "c", "new")
    two = checkpoint(1, 2, 3, 60), vocabulary("a", "b", "c", "new")
    three = checkpoint(1, 2, 3), vocabulary("a", "b", "c")
    base, experts, _ = aligned(one, two, three)
    for method, options in [("average", {}), ("task_arithmetic", {"scale": 1.0})]:
        merged = merge(base, list(experts), method, **options)
        assert merged[EMBEDDING][:, 0].tolist() == [1, 2, 3, 50]


def test_padding():
    one = checkpoint(1, 2, 3, 4), vocabulary("a", "b", "c", "new")
    base, (expert,), alignment = aligned(one, pad_to=8)
    assert alignment.rows == 8
    assert column(base) == column(expert) == [1, 2, 3, 4, 0, 0, 0, 0]
    with pytest.raises(PlanError, match="positive multiple, found 0"):
        aligned(one, pad_to=0)


def test_rows_that_belong_to_no_token():
    """A base whose table is larger than its tokenizer keeps those rows; new tokens take the first."""
    base = checkpoint(1, 2, 3, 8, 9)
    expert = checkpoint(1, 2, 3, 4, 7)
    words = [vocabulary("a", "b", "c"), vocabulary("a", "b", "c", "new")]
    found, (other,), alignment = align(base, [expert], words)
    assert alignment.rows == 5
    assert column(found) == [1, 2, 3, 4, 9]
    assert column(other) == [1, 2, 3, 4, 9], "padding of an expert is nobody's"


def test_ids_with_gaps():
    base = checkpoint(1, 2, 3, 4), Vocabulary({"a": 0, "b": 3})
    expert = checkpoint(5, 6, 7), Vocabulary({"b": 0, "x": 2})
    found, (other,), alignment = align(base[0], [expert[0]], [base[1], expert[1]])
    assert dict(alignment.ids) == {"a": 0, "b": 3, "x": 4}
    assert column(found) == [1, 2, 3, 4, 7]
    assert column(other) == [1, 2, 3, 5, 7]


def test_equal_vocabularies_change_nothing():
    expert = checkpoint(4, 5, 6)
    found, (other,), alignment = aligned((expert, BASE[1]))
    assert alignment.new == ()
    assert found.digest() == BASE[0].digest()
    assert other.digest() == expert.digest()


def test_it_is_a_checkpoint():
    base, (expert,), _ = aligned((checkpoint(1, 2), vocabulary("c", "new")))
    for each in (base, expert):
        assert isinstance(each, Checkpoint)
        held = MemoryCheckpoint({name: each.read(name) for name in each.tensors})
        assert each.digest() == held.digest()
        assert (each.label, each.path) == ("<memory>", None)
        with pytest.raises(ValueError, match="step 1"):
            each.read(EMBEDDING, slice(0, 4, 2))
        with pytest.raises(CheckpointError, match="nearest name is 'norm'"):
            each.read("nrm")


def test_dtypes_stay_what_they_are():
    expert = checkpoint(1, 2, 3, 4, dtype=torch.bfloat16), vocabulary("a", "b", "c", "new")
    base, (other,), _ = aligned(expert)
    assert base.read(EMBEDDING).dtype == torch.float32
    assert other.read(EMBEDDING).dtype == torch.bfloat16
    assert other.tensors[EMBEDDING].kind == "bfloat16"


def test_biases_and_other_tensors_of_as_many_rows():
    def model(rows):
        more = {"lm_head.bias": torch.arange(float(rows)), "per_token": torch.ones(rows, 1)}
        return checkpoint(*range(rows), extra=more)

    words = vocabulary("a", "b"), vocabulary("a", "b", "c")
    base, (expert,), alignment = align(model(2), [model(3)], words)
    assert alignment.tensors == (EMBEDDING, HEAD, "lm_head.bias", "per_token")
    assert base.read("lm_head.bias").tolist() == [0, 1, 2]
    assert expert.read("per_token").shape == (3, 1)


tokens = st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=10, unique=True)


@given(base=tokens, experts=st.lists(tokens, min_size=1, max_size=3), data=st.data())
def test_every_token_has_its_row(base, experts, data):
    """Restated token by token, and every slice equals the same rows of the whole."""
    models = [checkpoint(*range(100 * i, 100 * i + len(t))) for i, t in enumerate([base, *experts])]
    words = [vocabulary(*each) for each in [base, *experts]]
    found, others, alignment = align(models[0], models[1:], words)
    assert set(alignment.ids) == set(base).union(*experts)
    assert [alignment.ids[token] for token in base] == list(range(len(base)))
    own = [
        {token: float(100 * i + n) for n, token in enumerate(each)}
        for i, each in enumerate([base, *experts])
    ]
    for token, row in alignment.ids.items():
        known = [each[token] for each in own[1:] if token in each]
        start = own[0].get(token, sum(known) / max(len(known), 1))
        assert column(found)[row] == pytest.approx(start)
        for each, other in zip(own[1:], others, strict=True):
            assert column(other)[row] == pytest.approx(each.get(token, start))
    assert column(models[0]) == list(range(len(base))), "the inputs are what they were"
    first = data.draw(st.integers(0, alignment.rows))
    last = data.draw(st.integers(0, alignment.rows))
    for each in (found, *others):
        assert torch.equal(each.read(HEAD, slice(first, last)), each.read(HEAD)[first:last])


# ---- refusals


def refused(expert, words, message, **options):
    with pytest.raises(CheckpointError, match=message):
        aligned((expert, words), **options)


def test_another_width():
    wide = MemoryCheckpoint(
        {EMBEDDING: torch.ones(4, 5), "norm": torch.ones(2), HEAD: torch.ones(4, 3)}, "w"
    )
    refused(
        wide,
        vocabulary("a", "b", "c", "d"),
        r"tensor 'model\.embed_tokens\.weight': \[3, 2\] in <memory> and \[4, 5\] in w differ in more",
    )


def test_a_tensor_that_has_no_row_per_token():
    model = checkpoint(1, 2, 3, 4, extra={"norm": torch.ones(7)}, label="odd")
    message = r"tensor 'norm': \[2\] in <memory> and \[7\] in odd .* \(the two have 3 and 4\)"
    refused(model, vocabulary("a", "b", "c", "d"), message)


def test_a_tokenizer_larger_than_the_table():
    words = vocabulary("a", "b", "c", "d", "e")
    refused(checkpoint(1, 2, 3, 4), words, "has 4 rows, but the tokenizer <memory> has 5 ids.*'e'")


def test_no_embedding():
    model = MemoryCheckpoint({"w": torch.ones(3, 2)})
    words = [vocabulary("a"), vocabulary("a")]
    with pytest.raises(CheckpointError, match=r"expected an embedding .* found none by its name"):
        align(model, [model], words)
    _, _, alignment = align(model, [model], words, tensors=["w"])
    assert alignment.tensors == ("w",)
    with pytest.raises(CheckpointError, match="no tensor 'x'"):
        align(model, [model], words, tensors=["x"])


def test_options_that_are_refused():
    with pytest.raises(PlanError, match=r"one vocabulary per model \(2\), found 1"):
        align(BASE[0], [BASE[0]], [BASE[1]])
    with pytest.raises(PlanError, match="'mean' or 'zero', found 'random'"):
        aligned(BASE, new="random")


def test_vocabularies_that_are_refused():
    with pytest.raises(CheckpointError, match="'a' and 'b' have one id, 0"):
        Vocabulary({"a": 0, "b": 0})
    with pytest.raises(CheckpointError, match="expected a non-negative id, found -1"):
        Vocabulary({"a": -1})
    assert Vocabulary({}).size == 0
    assert union(Vocabulary({}), [], rows=3) == ({}, 3)


def test_weights_without_a_tokenizer(tmp_path):
    with pytest.raises(CheckpointError, match="expected a directory with a tokenizer"):
        align_directories(BASE[0], [BASE[0]])
    save_file({EMBEDDING: torch.ones(2, 2)}, tmp_path / "model.safetensors")
    model = open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"expected a tokenizer such as tokenizer\.json"):
        align_directories(model, [model])


# ---- real tokenizers


WORDS = ["[PAD]", "[UNK]", "good", "bad", "film"]


def tiny_llama(folder, words, *, late=(), seed=0, tied=False):
    """A Llama of 8 dimensions whose tokenizer splits at spaces; ``late`` are added tokens."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.add_tokens([AddedToken(each, special=True) for each in late], special_tokens=True)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words) + len(late),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=16,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tied", [False, True])
def test_a_union_that_transformers_loads(tmp_path, tied):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folders = [
        tiny_llama(tmp_path / "base", WORDS, tied=tied),
        tiny_llama(tmp_path / "one", WORDS, late=["<call>"], seed=1, tied=tied),
        tiny_llama(tmp_path / "two", [*WORDS[:2], "film", "good", "plot"], seed=2, tied=tied),
    ]
    models = [open_checkpoint(folder) for folder in folders]
    base, experts, alignment = align_directories(models[0], models[1:], pad_to=4)
    assert alignment.new == ("<call>", "plot")
    assert alignment.rows == 8
    out = tmp_path / "out"
    merge_files(base, list(experts), "average", out)
    write_tokenizer(alignment, folders[0], out)
    tokenizer, loaded = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
    assert tokenizer.tokenize("good <call> plot film") == ["good", "<call>", "plot", "film"]
    assert "<call>" in tokenizer.all_special_tokens or tokenizer.added_tokens_decoder[5].special
    assert tokenizer.chat_template.startswith("{% for m")
    assert loaded.config.vocab_size == 8
    table = loaded.get_input_embeddings().weight
    assert table.shape == (8, 8)
    stored = [model.read(EMBEDDING) for model in models]
    for token, parts in {
        "good": (stored[1][2], stored[2][3]),
        "bad": (stored[1][3], stored[0][3]),
        "film": (stored[1][4], stored[2][2]),
        "<call>": (stored[1][5], stored[1][5]),
        "plot": (stored[2][4], stored[2][4]),
    }.items():
        row = table[tokenizer.convert_tokens_to_ids(token)]
        torch.testing.assert_close(row, (parts[0] + parts[1]) / 2, msg=token)
    assert not table[7].any()
    head = loaded.get_output_embeddings().weight
    assert (head.data_ptr() == table.data_ptr()) == tied


def test_vocabularies_of_files_are_those_of_transformers(tmp_path):
    from transformers import AutoTokenizer

    folder = tiny_llama(tmp_path / "m", WORDS, late=["<call>"])
    found = read_vocabulary(folder)
    assert dict(found.ids) == AutoTokenizer.from_pretrained(folder).get_vocab()
    assert found.added["<call>"]["special"] is True


def test_a_tokenizer_whose_ids_would_not_be_the_rows(tmp_path):
    folder = tiny_llama(tmp_path / "m", WORDS)
    model = open_checkpoint(folder)
    gap = Vocabulary(dict(read_vocabulary(folder).ids) | {"late": 6})
    wide = {
        name: torch.cat([v, v]) if v.shape[0] == 5 else v
        for name in model.tensors
        for v in [model.read(name)]
    }
    _, _, alignment = align(MemoryCheckpoint(wide), [MemoryCheckpoint(wide)], [gap, gap])
    out = tmp_path / "out"
    out.mkdir()
    write_tokenizer(alignment, folder, out)  # nothing is new: the base's tokenizer, copied
    _, _, alignment = align(
        MemoryCheckpoint(wide), [MemoryCheckpoint(wide)], [gap, Vocabulary({"x": 0})]
    )
    with pytest.raises(CheckpointError, match=r"gives token .* the id .* but its row is"):
        write_tokenizer(alignment, folder, out)


def test_without_transformers(tmp_path, monkeypatch):
    folder = tiny_llama(tmp_path / "m", WORDS)
    model = open_checkpoint(folder)
    words = read_vocabulary(folder)
    _, _, alignment = align(model, [model], [words, Vocabulary({"x": 0})])
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(MissingExtra, match="adding tokens"):
        write_tokenizer(alignment, folder, out)


def test_the_configuration_is_told(tmp_path):
    folder = tiny_llama(tmp_path / "m", WORDS)
    model, words = open_checkpoint(folder), read_vocabulary(folder)
    _, _, alignment = align(model, [model], [words, words], pad_to=64)
    out = tmp_path / "out"
    out.mkdir()
    nested = {"vocab_size": 5, "text_config": {"vocab_size": 5}, "vision_config": {"layers": 2}}
    (out / "config.json").write_text(json.dumps(nested))
    write_tokenizer(alignment, folder, out)
    found = json.loads((out / "config.json").read_text())
    assert found == {"vocab_size": 64, "text_config": {"vocab_size": 64}, "vision_config": {"layers": 2}}
