"""taskloom select by soft prompts and by attributions, on tiny models of texts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from taskloom.choose.attribution import jaccard, top_words, word_weights
from taskloom.choose.prompts import activation_overlap, mean_cosine
from taskloom.errors import CheckpointError, DataError, PlanError
from taskloom.evaluation.load import load_task
from taskloom.models.encoder import Encoder
from taskloom.models.head import Head
from taskloom.runs.attributed import attributions
from taskloom.runs.prompted import activations, read_prompt, represent
from taskloom.runs.select import select
from tiny_models import tiny_bert

from .conftest import text_task, with_head

LABELS = 24


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny base, a task of texts, two experts with heads (one is the base), and soft prompts."""
    root = tmp_path_factory.mktemp("prompts")
    base = tiny_bert(root / "base")
    task = text_task(root, "kinds", 90)
    same = Path(shutil.copytree(base, root / "same"))
    other = tiny_bert(root / "other", seed=1)
    experts = {"same": with_head(same, task), "other": with_head(other, task)}
    prompts = {}
    for seed, name in enumerate(("target", "near", "far")):
        draw = torch.Generator().manual_seed(seed)
        tokens = torch.randn(3, 16, generator=draw)
        if name == "near":
            tokens = read(prompts["target"]) + 0.05 * tokens
        folder = root / f"prompt-{name}"
        folder.mkdir()
        save_file({"prompt_embeddings": tokens}, folder / "adapter_model.safetensors")
        prompts[name] = str(folder)
    return {"base": str(base), "task": str(task), "experts": experts, "prompts": prompts}


def read(folder):
    return torch.from_numpy(read_prompt(folder))


def chosen(world, scores, **more):
    return select(world["task"], world["base"], world["experts"], scores=scores, n_labels=LABELS, **more)


def test_prompts_rank_the_near_one_first(world):
    own = world["prompts"]
    sources = {"near": own["near"], "far": own["far"]}
    names = [
        "prompt_mean_cosine",
        "prompt_token_cosine",
        "prompt_distance",
        "activation_overlap",
        "panda",
    ]
    found = chosen(world, [*names, "knn"], prompts=sources, target_prompt=own["target"])
    assert [ranking.score for ranking in found.rankings] == [*names, "knn"]
    assert [ranking.best for ranking in found.rankings[:5]] == ["near"] * 5
    wanted = mean_cosine(read_prompt(own["near"]), read_prompt(own["target"]))
    assert found.rankings[0].values(["near"]) == [pytest.approx(wanted)]
    encoder = Encoder.load(world["base"])
    both = [activations(encoder, read_prompt(own[name])) for name in ("far", "target")]
    assert found.rankings[3].values(["far"]) == [pytest.approx(activation_overlap(*both))]


def test_activations_are_those_before_the_nonlinearity(world):
    """Restated by hand for the first layer of the tiny BERT."""
    encoder = Encoder.load(world["base"])
    prompt = read_prompt(world["prompts"]["far"])
    found = activations(encoder, prompt)
    assert found.shape == (2, 32)
    module = encoder.module
    words = module.get_input_embeddings()(encoder.batch([""])["input_ids"])
    with torch.inference_mode():
        out = module(
            inputs_embeds=torch.cat([torch.from_numpy(prompt)[None], words], 1),
            output_hidden_states=True,
        )
        layer = module.encoder.layer[0]
        attended = layer.attention(out.hidden_states[0])[0]
        wanted = layer.intermediate.dense(attended)[0, 3]
    np.testing.assert_allclose(found[0], wanted.numpy(), atol=1e-5)


def test_a_prompt_changes_what_texts_become(world):
    encoder = Encoder.load(world["base"])
    inputs = ["ball goal", "law vote the a is"]
    first, second = (
        represent(encoder, read_prompt(world["prompts"][n]), inputs) for n in ("near", "far")
    )
    assert first.shape == (2, 16)
    assert np.abs(first - second).max() > 1e-3
    alone = represent(encoder, read_prompt(world["prompts"]["near"]), inputs[:1])
    np.testing.assert_allclose(alone[0], first[0], atol=1e-5)  # padding is not looked at


def test_bad_prompts_are_refused(world, tmp_path):
    own = world["prompts"]
    with pytest.raises(PlanError, match=r"the score panda and soft prompts .* go together"):
        chosen(world, ["panda"])
    with pytest.raises(PlanError, match="go together"):
        chosen(world, ["knn"], prompts={"near": own["near"]}, target_prompt=own["target"])
    with pytest.raises(CheckpointError, match="expected a soft prompt"):
        chosen(world, ["panda"], prompts={"a": str(tmp_path)}, target_prompt=own["target"])
    save_file({"lora": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="expected a tensor 'prompt_embeddings'"):
        read_prompt(tmp_path)
    encoder = Encoder.load(world["base"])
    with pytest.raises(CheckpointError, match="tokens of 5 numbers"):
        activations(encoder, np.ones((2, 5), dtype=np.float32))
    with pytest.raises(DataError, match="do not fit into the 24 positions"):
        activations(encoder, np.ones((24, 16), dtype=np.float32))
    with pytest.raises(DataError, match="expected texts, found arrays"):
        represent(encoder, np.ones((2, 16), dtype=np.float32), np.ones((2, 4)))


def test_attributions_add_up_for_a_linear_model(world):
    """Gradient times input, against finite differences along each word's embedding."""
    encoder = Encoder.load(world["base"])
    head = Head.load(world["experts"]["same"], "kinds")
    texts_ = ["ball goal game", "law"]
    words, found = attributions(encoder, encoder.state_dict(), head, texts_)
    assert [len(each) for each in words] == [5, 3]  # with the special tokens
    module, step = encoder.module, 1e-3
    batch = encoder.batch(texts_[:1])
    embedded = module.get_input_embeddings()(batch["input_ids"]).detach()

    def answer(inputs):
        with torch.inference_mode():
            hidden = module(
                inputs_embeds=inputs, attention_mask=batch["attention_mask"]
            ).last_hidden_state
        return torch.from_numpy(head.logits(hidden.mean(1).numpy()))

    best = int(answer(embedded)[0].argmax())
    for place in range(3):
        moved = [embedded.clone(), embedded.clone()]
        for sign, each in zip((1, -1), moved, strict=True):
            each[0, place] *= 1 + sign * step
        slope = (answer(moved[0])[0, best] - answer(moved[1])[0, best]) / (2 * step)
        assert float(found[0][place]) == pytest.approx(float(slope), abs=5e-3)


def test_the_model_of_the_target_itself_ranks_first(world):
    tasks = dict.fromkeys(world["experts"], world["task"])
    more = {"target_model": world["experts"]["same"], "trained_on": tasks}
    found = chosen(world, ["attribution_overlap", "attribution_cosine"], **more)
    by_overlap, by_cosine = found.rankings
    assert by_cosine.best == "same"
    same, other = by_cosine.values(["same", "other"])
    assert 0.9 < same <= 1  # the target has few texts, so not quite 1
    assert other < same
    data = load_task(world["task"], n_labels=LABELS)
    whole = load_task(world["task"], max_train=500)
    encoder = Encoder.load(world["base"])
    heads = {n: Head.load(p, "kinds") for n, p in world["experts"].items()}

    def weights(name, inputs):
        state = Encoder.load(world["experts"][name]).state_dict()
        return word_weights(*attributions(encoder, state, heads[name], inputs[:200]), 26)

    target = top_words(weights("same", data.train.inputs), 100)
    wanted = jaccard(top_words(weights("other", whole.train.inputs), 100), target)
    assert by_overlap.values(["other"]) == [pytest.approx(wanted)]


def test_attributions_need_models_of_both(world, cli):
    with pytest.raises(PlanError, match="look at a model that was tuned on the target"):
        chosen(world, ["attribution_overlap"])
    with pytest.raises(DataError, match=r"'same': attribution_overlap looks at texts .*--trained-on"):
        chosen(world, ["attribution_overlap"], target_model=world["experts"]["same"])
    with pytest.raises(DataError, match="and there is none"):
        chosen(world, ["attribution_overlap"], target_model=world["base"])
    own = world["prompts"]
    words = ["select", world["task"], "--base", world["base"], "--labels", LABELS, "--json"]
    words += ["--expert", world["experts"]["same"], "--score", "panda"]
    words += ["--prompt", f"far={own['far']}", "--prompt", f"near={own['near']}"]
    status, out, err = cli(*words, "--target-prompt", own["target"])
    assert status == 0, err
    assert json.loads(out)["rankings"][0]["entries"][0]["expert"] == "near"
