"""Vocabularies: rows placed by token, unions, padding, chosen rows, chat templates."""

import json
from collections import Counter
from itertools import chain

import pytest
import torch

from taskloom.errors import CheckpointError, PlanError
from taskloom.runs.mergekit.api import plan_mergekit

from .conftest import llama

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
WORDS = {
    "one": ["<s>", "a", "b", "c"],
    "two": ["<s>", "c", "b", "d", "e"],
    "three": ["<s>", "d", "b"],
}
WORDS_FILE = "two/model.safetensors"
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.fixture
def speakers(bench):
    """Three models whose tokenizers share some tokens, ``<s>`` added and special."""
    from tokenizers import AddedToken, Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    for seed, (name, words) in enumerate(WORDS.items()):
        folder = llama(bench.folder / name, seed=seed, vocab_size=len(words))
        core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<s>"))
        core.add_special_tokens([AddedToken("<s>", special=True)])
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<s>")
        tokenizer.chat_template = TEMPLATE + ("three" if name == "three" else "")
        tokenizer.save_pretrained(folder)
    return bench


def config(bench, source, *, base=None, **more):
    models = [{"model": str(bench.folder / name)} for name in WORDS]
    found = {"merge_method": "linear", "models": models, "parameters": {"weight": 1}}
    section = {"source": source if source in ("union", "base") else str(bench.folder / source)}
    if base:
        found["base_model"] = str(bench.folder / base)
    return found | {"tokenizer": section | more}


def rows(bench, token, base=None):
    """Every model's row of a token by mergekit's rule, and their mean."""
    having = {
        name: bench.tensors(bench.folder / name)[EMBEDDING][words.index(token)]
        for name, words in WORDS.items()
        if token in words
    }
    if base in having:
        default = having[base]
    else:
        default = sum(having.values()) / len(having) if having else torch.zeros(16)
    return sum(having.get(name, default) for name in WORDS) / 3


@pytest.mark.parametrize("base", [None, "one", "three"])
@pytest.mark.parametrize("source", ["union", "two", "base"])
def test_rows_are_placed_by_token(speakers, source, base):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = speakers.merge(config(speakers, source, base=base))
    tokenizer = AutoTokenizer.from_pretrained(speakers.folder / "out")
    words = tokenizer.get_vocab()
    owner = base or "one"
    listed = {"union": [], "two": WORDS["two"], "base": WORDS[owner]}[source]
    assert set(words) == set(listed or chain.from_iterable(WORDS.values()))
    assert out[EMBEDDING].shape == out[HEAD].shape == (len(words), 16)
    for token, number in words.items():
        torch.testing.assert_close(out[EMBEDDING][number], rows(speakers, token, base))
    if source == "union":  # the base's tokens keep their ids
        assert [words[token] for token in WORDS[owner]] == list(range(len(WORDS[owner])))
    model = AutoModelForCausalLM.from_pretrained(speakers.folder / "out")
    assert model.config.vocab_size == len(words)


def test_padding_rows_are_the_mean(speakers):
    out = speakers.merge(config(speakers, "union", pad_to_multiple_of=8))[EMBEDDING]
    assert out.shape == (8, 16)
    torch.testing.assert_close(out[6:], out[:6].mean(0).expand(2, 16))
    assert json.loads((speakers.folder / "out" / "config.json").read_text())["vocab_size"] == 8


def test_slices_of_placed_rows_read_what_they_need(speakers, monkeypatch):
    """Rows far apart are read by themselves, and any slice gives the rows of the whole."""
    from taskloom.store import rows as rows_of
    from taskloom.store.safetensors_dir import SafetensorsCheckpoint

    path = speakers.write(config(speakers, "union", base="three", pad_to_multiple_of=4))
    (stage,) = plan_mergekit(path, speakers.folder / "out")
    placed = next(o for o in stage.plan.program.outputs if o.name == EMBEDDING).experts[1].checkpoint
    whole = placed.read(EMBEDDING)
    for gap, limit in ((0, 1), (1, 4096), (16, 2)):
        monkeypatch.setattr(rows_of, "GAP", gap)
        monkeypatch.setattr(rows_of, "ROWS", limit)
        (stage,) = plan_mergekit(path, speakers.folder / "out")
        again = next(o for o in stage.plan.program.outputs if o.name == EMBEDDING).experts[1].checkpoint
        read, asked = SafetensorsCheckpoint.read, []

        def seen(self, name, rows=None, read=read, asked=asked):
            asked.append(rows.stop - rows.start)
            return read(self, name, rows)

        with monkeypatch.context() as patch:
            patch.setattr(SafetensorsCheckpoint, "read", seen)
            parts = [again.read(EMBEDDING, slice(n, n + 1)) for n in range(len(whole))]
        assert torch.equal(torch.cat(parts), whole)
        assert max(asked) <= limit
        assert again.placing() == placed.placing()
        assert set(again.files) >= {speakers.folder / WORDS_FILE}


def test_rows_that_the_file_chooses(speakers):
    two = str(speakers.folder / "two")
    tokens = {
        "b": {"source": two, "force": True},
        "new": {"source": {"kind": "zero"}},
        "copy": {"source": {"kind": "model_token", "model": two, "token": "e"}},
        "number": {"source": {"kind": "model_token", "model": two, "token_id": 3}},
    }
    out = speakers.merge(config(speakers, "base", tokens=tokens))[EMBEDDING]
    found = speakers.tensors(two)[EMBEDDING]
    assert out.shape == (7, 16)
    for row, wanted in ((2, found[2]), (4, torch.zeros(16)), (5, found[4]), (6, found[3])):
        torch.testing.assert_close(out[row], wanted)


@pytest.mark.parametrize(
    ("source", "tokens", "error", "said"),
    [
        ("four", None, PlanError, "is not a model of the merge"),
        ("base", {"q": {}}, PlanError, "'q' has no source"),
        ("base", {"q": {"source": "else"}}, PlanError, "else is not one of"),
        ("base", {"q": {"source": {"kind": "model_token", "model": "m"}}}, PlanError, "token or"),
    ],
)
def test_what_is_refused(speakers, source, tokens, error, said):
    with pytest.raises(error, match=said):
        speakers.merge(config(speakers, source, tokens=tokens))


def test_a_model_without_a_tokenizer_and_one_with_too_many_tokens(speakers):
    (speakers.folder / "two" / "tokenizer.json").rename(speakers.folder / "kept.json")
    with pytest.raises(CheckpointError, match=r"two: expected tokenizer.json"):
        speakers.merge(config(speakers, "base"))
    (speakers.folder / "three" / "tokenizer.json").write_bytes(
        (speakers.folder / "kept.json").read_bytes()
    )
    (speakers.folder / "kept.json").rename(speakers.folder / "two" / "tokenizer.json")
    with pytest.raises(CheckpointError, match="three: token 'd' has the id 3, but the embedding has 3"):
        speakers.merge(config(speakers, "base"))


def test_different_vocabularies_need_a_tokenizer_section(speakers):
    plain = config(speakers, "base")
    del plain["tokenizer"]
    with pytest.raises(CheckpointError, match=r"tokenizer: \{source: base\}"):
        plan_mergekit(speakers.write(plain), speakers.folder / "out")


def chat(speakers, wanted, **more):
    found = config(speakers, "union") | {"chat_template": wanted} | more
    speakers.merge(found)
    folder = speakers.folder / "out"
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert "chat_template" not in settings
    return (folder / "chat_template.jinja").read_text()


def test_the_chat_template_of_most_models(speakers):
    written = [(speakers.folder / n / "chat_template.jinja").read_text().strip() for n in WORDS]
    (wanted, count), *_ = Counter(written).most_common()
    assert count == 2
    assert chat(speakers, "auto") == wanted == TEMPLATE


def test_a_chat_template_that_is_given(speakers):
    assert chat(speakers, "{{ messages[0]['content'] }}") == "{{ messages[0]['content'] }}"


@pytest.mark.parametrize(
    ("wanted", "said"), [("chatlm", "did you mean .chatml"), ("hello", "is not Jinja")]
)
def test_chat_templates_that_are_refused(speakers, wanted, said):
    with pytest.raises(PlanError, match=said):
        chat(speakers, wanted)


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("source", "base"),
    [(s, b) for s in ("union", "two") for b in (None, "one", "three")]
    + [("base", "one"), ("base", "three")],
)
def test_rows_are_those_of_the_peer(speakers, source, base):
    """By token: the peer numbers the tokens of a union in the order of a hash table.

    Without a base_model its base is the first of an unordered set, so that is left out.
    """
    from transformers import AutoTokenizer

    from .test_peer import theirs, units_apart

    asked = config(speakers, source, base=base) | {"dtype": "float32"}
    wanted = theirs(speakers, speakers.write(asked), "theirs")
    found = speakers.merge(asked)
    numbers = {
        name: AutoTokenizer.from_pretrained(speakers.folder / name).get_vocab()
        for name in ("out", "theirs")
    }
    assert set(numbers["out"]) == set(numbers["theirs"])
    for name in (EMBEDDING, HEAD):
        for token, number in numbers["out"].items():
            other = wanted[name][numbers["theirs"][token]]
            assert units_apart(found[name][number], other) <= 8, (name, token)
