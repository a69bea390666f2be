"""Language models: batches, greedy answers, and which wanted answers they are."""

import json

import numpy as np
import pytest
import torch

from taskloom.errors import CheckpointError, DataError
from taskloom.models.language import IGNORED, LanguageModel
from tiny_language import WORDS, tiny_llama

PAIRS = [("say red :", "one two"), ("count left right up :", "three"), ("down ?", "blue . blue")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("language") / "llama")


@pytest.fixture(scope="module")
def model(folder):
    return LanguageModel.load(folder)


def ids(model, text):
    return model.tokenizer(text)["input_ids"]


def greedy(model, prompt, tokens):
    """One token after another, each the likeliest, in plain torch and without a cache."""
    found = ids(model, prompt)
    start = len(found)
    for _ in range(tokens):
        with torch.no_grad():
            following = int(model.module(input_ids=torch.tensor([found])).logits[0, -1].argmax())
        if following == 1:
            break
        found.append(following)
    return found[start:]


def test_a_batch_joins_prompt_answer_and_end(model):
    inputs, labels = model.batch(PAIRS)
    assert inputs["input_ids"].shape == labels.shape == (3, 7)
    for row, (prompt, answer) in enumerate(PAIRS):
        whole = [*ids(model, prompt), *ids(model, answer), 1]
        n, first = len(whole), len(ids(model, prompt))
        assert inputs["input_ids"][row].tolist() == whole + [1] * (7 - n)
        assert inputs["attention_mask"][row].tolist() == [1] * n + [0] * (7 - n)
        wanted = [IGNORED] * first + whole[first:] + [IGNORED] * (7 - n)
        assert labels[row].tolist() == wanted


def test_scored_places_are_those_before_the_answers_tokens(model):
    inputs, labels = model.batch(PAIRS)
    with torch.no_grad():
        logits, wanted = model.scored(PAIRS)
        whole = model.module(**inputs).logits
    places = [i for i in range(6) if (labels[:, i + 1] != IGNORED).any()]
    assert torch.allclose(logits, whole[:, places], atol=1e-6)
    assert torch.equal(wanted, labels[:, [i + 1 for i in places]])

    class Plain(torch.nn.Module):  # one whose forward cannot leave places out
        def forward(self, input_ids, attention_mask):
            return model.module(input_ids=input_ids, attention_mask=attention_mask)

    plain = LanguageModel(Plain(), model.tokenizer, model.directory)
    with torch.no_grad():
        again, same = plain.scored(PAIRS)
    assert torch.allclose(again, logits, atol=1e-6)
    assert torch.equal(same, wanted)


def test_answers_are_greedy_however_they_are_batched(model):
    prompts = [prompt for prompt, _ in PAIRS] * 2
    wanted = [" ".join(model.tokenizer.convert_ids_to_tokens(greedy(model, p, 5))) for p in prompts]
    assert any(wanted)
    for size in (1, 4):
        found = model.answers(prompts, tokens=5, batch_size=size)
        assert [text.split() for text in found] == [text.split() for text in wanted]


def test_says_agrees_with_decoding(model):
    rng = np.random.default_rng(0)
    words = WORDS[:11]
    prompts = [" ".join(rng.choice(words, 3)) for _ in range(40)]
    exchanges, wanted = [], []
    for prompt in prompts:
        told = greedy(model, prompt, 4)
        ends = len(told) < 4  # an end token was the likeliest
        answer = " ".join(model.tokenizer.convert_ids_to_tokens(told))
        if not answer:
            continue
        exchanges.append((prompt, answer))
        wanted.append(ends)
        exchanges.append((prompt, answer + " red"))
        wanted.append(False)
    found = model.says(exchanges, batch_size=7)
    cut = np.array([len(ids(model, a)) >= 4 for _, a in exchanges])
    assert found[~cut].tolist() == np.array(wanted)[~cut].tolist()
    assert not found[1::2][~cut[1::2]].any()


def test_weights_are_put_whole(model, folder):
    start = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    other = LanguageModel.load(folder)
    moved = {n: t + 0.1 for n, t in start.items() if n != "lm_head.weight"}  # tied: one name is enough
    other.put(moved)
    own = other.module.state_dict()
    assert all(torch.equal(own[name], moved[name]) for name in moved)
    assert torch.equal(own["lm_head.weight"], moved["model.embed_tokens.weight"])
    with pytest.raises(CheckpointError, match="the model has no weight 'extra'"):
        other.put({**moved, "extra": torch.zeros(1)})
    del moved["model.norm.weight"]
    with pytest.raises(CheckpointError, match=r"'model.norm.weight': expected shape \[16\], found none"):
        other.put(moved)
    with pytest.raises(CheckpointError, match=r"expected shape \[16\], found \[3\]"):
        other.put({**moved, "model.norm.weight": torch.zeros(3)})


def test_bad_input(model, folder, tmp_path):
    with pytest.raises(DataError, match="no texts"):
        model.batch([])
    with pytest.raises(DataError, match="text 1 has no tokens"):
        model.batch([("red", "one"), ("blue", "")])
    with pytest.raises(DataError, match="expected 1 token or more, found 0"):
        model.answers(["red"], tokens=0)
    with pytest.raises(CheckpointError, match="the language model cannot be loaded"):
        LanguageModel.load(tmp_path)
    bare = tiny_llama(tmp_path / "bare")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (bare / name).is_file():
            settings = json.loads((bare / name).read_text())
            settings.pop("eos_token", None)
            (bare / name).write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="expected a tokenizer with an end token"):
        LanguageModel.load(bare)
