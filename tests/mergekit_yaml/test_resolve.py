"""What a file comes to, restated tensor by tensor, and what is refused before weights are read."""

import json

import pytest
import torch

from taskloom.errors import CheckpointError, PlanError
from taskloom.runs.mergekit.anatomy import dissect, is_front
from taskloom.runs.mergekit.api import plan_mergekit

from .conftest import llama

LAYER = "model.layers.{}.{}.weight"


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_linear_with_a_gradient_and_a_filter(bench):
    out = bench.merge(
        {
            "merge_method": "linear",
            "models": [
                {"model": "a", "parameters": {"weight": [0.0, 1.0]}},
                {"model": "b", "parameters": {"weight": [{"filter": "mlp", "value": 3}, {"value": 1}]}},
            ],
        }
    )
    a, b = bench.tensors("a"), bench.tensors("b")
    for name, tensor in out.items():
        layer = int(name.split(".")[2]) if ".layers." in name else 0
        first = layer / 2
        second = 3.0 if "mlp" in name else 1.0
        close(tensor, (first * a[name] + second * b[name]) / (first + second))


def test_ties_is_mergekits_rule(bench):
    """Trim per tensor, weigh before the vote, a tie is positive, divide by weights that agree."""
    weights, densities = (1.0, -0.5, 2.0), (0.3, 0.6, 1.0)
    models = [
        {"model": m, "parameters": {"weight": w, "density": d}}
        for m, w, d in zip("abc", weights, densities, strict=True)
    ]
    config = {"merge_method": "ties", "base_model": "base", "models": models}
    out = bench.merge(config | {"parameters": {"lambda": 0.5, "int8_mask": True}})
    base = bench.tensors("base")
    for name, origin in base.items():
        rows = []
        for m, w, d in zip("abc", weights, densities, strict=True):
            tau = (bench.tensors(m)[name] - origin).reshape(-1)
            kept = tau.abs().argsort(descending=True, stable=True)[: max(1, int(d * tau.numel()))]
            rows.append(w * torch.zeros_like(tau).index_copy(0, kept, tau[kept]))
        stack = torch.stack(rows)
        agree = torch.sign(stack) == torch.where(stack.sum(0) >= 0, 1.0, -1.0)
        divisor = (torch.tensor(weights)[:, None] * agree).sum(0)
        delta = (stack * agree).sum(0) / torch.where(divisor == 0, 1.0, divisor)
        close(out[name], origin + 0.5 * delta.reshape(origin.shape))


def test_dare_keeps_the_l1_norm(bench):
    config = {
        "merge_method": "dare_linear",
        "base_model": "base",
        "models": [{"model": "a", "parameters": {"weight": 1, "density": 0.4}}],
    }
    out, again = bench.merge(config), bench.merge(config, "again")
    other = bench.merge(config, "other", seed=1)
    base, a = bench.tensors("base"), bench.tensors("a")
    name = LAYER.format(0, "mlp.up_proj")
    delta, tau = out[name] - base[name], a[name] - base[name]
    assert 0.3 < float((delta != 0).float().mean()) < 0.5
    close(delta.abs().sum(), tau.abs().sum())
    assert all(torch.equal(out[n], again[n]) for n in out)
    assert not torch.equal(out[name], other[name])


def test_layers_are_stacked_and_the_configuration_says_so(bench):
    from transformers import AutoModelForCausalLM

    config = {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "a", "layer_range": [0, 2]}]},
            {"sources": [{"model": "deep", "layer_range": [3, 5]}]},
            {"sources": [{"model": "a", "layer_range": [1, 2]}]},
        ],
        "dtype": "bfloat16",
    }
    out = bench.merge(config)
    a, deep = bench.tensors("a"), bench.tensors("deep")
    order = [(a, 0), (a, 1), (deep, 3), (deep, 4), (a, 1)]
    for number, (source, layer) in enumerate(order):
        name = LAYER.format(number, "self_attn.q_proj")
        assert torch.equal(out[name], source[LAYER.format(layer, "self_attn.q_proj")].bfloat16())
    assert torch.equal(out["model.embed_tokens.weight"], a["model.embed_tokens.weight"].bfloat16())
    assert torch.equal(out["lm_head.weight"], a["lm_head.weight"].bfloat16())
    model = AutoModelForCausalLM.from_pretrained(bench.folder / "out")
    assert model.config.num_hidden_layers == 5
    assert model.dtype == torch.bfloat16
    assert (bench.folder / "out" / "mergekit_config.yml").read_text() == (
        bench.folder / "merge.yaml"
    ).read_text()


def test_front_tensors_come_from_the_first_slice_and_the_others_from_the_last(bench):
    out = bench.merge(
        {
            "merge_method": "passthrough",
            "slices": [
                {"sources": [{"model": "a", "layer_range": [0, 1]}]},
                {"sources": [{"model": "b", "layer_range": [0, 1]}]},
            ],
        }
    )
    a, b = bench.tensors("a"), bench.tensors("b")
    assert torch.equal(out["model.embed_tokens.weight"], a["model.embed_tokens.weight"])
    assert torch.equal(out["lm_head.weight"], b["lm_head.weight"])
    assert torch.equal(out["model.norm.weight"], b["model.norm.weight"])


def test_a_list_per_layer_of_the_configuration_is_picked_with_the_layers(bench):
    folder = bench.folder / "typed"
    llama(folder, seed=7, layers=2)
    config = json.loads((folder / "config.json").read_text()) | {"layer_types": ["wide", "narrow"]}
    (folder / "config.json").write_text(json.dumps(config))
    sources = [[{"model": str(folder), "layer_range": [n, n + 1]}] for n in (1, 0, 1)]
    bench.merge({"merge_method": "passthrough", "slices": [{"sources": s} for s in sources]})
    written = json.loads((bench.folder / "out" / "config.json").read_text())
    assert written["layer_types"] == ["narrow", "wide", "narrow"]
    assert written["num_hidden_layers"] == 3


def test_scaled_passthrough(bench):
    scale = [{"filter": "o_proj", "value": 0.0}, {"filter": "down_proj", "value": [0.5, 1.0]}]
    source = {"model": "a", "layer_range": [0, 2], "parameters": {"scale": scale}}
    out = bench.merge({"merge_method": "passthrough", "slices": [{"sources": [source]}]})
    a = bench.tensors("a")
    assert not out[LAYER.format(0, "self_attn.o_proj")].any()
    for layer, factor in ((0, 0.5), (1, 1.0)):
        name = LAYER.format(layer, "mlp.down_proj")
        close(out[name], factor * a[name])


def test_an_output_embedding_that_is_tied_in_one_model(bench):
    config = {
        "merge_method": "linear",
        "models": [
            {"model": "tied", "parameters": {"weight": 1}},
            {"model": "a", "parameters": {"weight": 3}},
        ],
    }
    out = bench.merge(config)
    a, tied = bench.tensors("a"), bench.tensors("tied")
    close(out["lm_head.weight"], (3 * a["lm_head.weight"] + tied["model.embed_tokens.weight"]) / 4)
    written = json.loads((bench.folder / "out" / "config.json").read_text())
    assert written["tie_word_embeddings"] is False
    (stage,) = plan_mergekit(bench.write(config), bench.folder / "x")
    assert "has tied embeddings" in stage.resolved.notes[0]


def test_an_output_embedding_that_is_missing_is_refused(bench):
    """mergekit takes the input embedding in its place, whatever the configuration says."""
    from safetensors.torch import load_file, save_file

    folder = bench.folder / "beheaded"
    llama(folder, seed=8)
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = {"merge_method": "linear", "models": [{"model": "a"}, {"model": str(folder)}]}
    with pytest.raises(CheckpointError, match=r"'lm_head.weight': expected as in .*says false"):
        bench.merge(config | {"parameters": {"weight": 1}})


def test_dtypes(bench):
    models = {"merge_method": "linear", "models": [{"model": "a"}], "parameters": {"weight": 1}}
    for given, wanted in (
        ({}, torch.float32),
        ({"dtype": "bfloat16"}, torch.bfloat16),
        ({"dtype": "torch.float64", "out_dtype": "float16"}, torch.float16),
        ({"dtype": "float64"}, torch.float64),
    ):
        out = bench.merge(models | given, f"out-{len(str(given))}")
        assert {tensor.dtype for tensor in out.values()} == {wanted}


def pair(first="a", second="b", **more):
    models = [{"model": first}, {"model": second}]
    return {"merge_method": "linear", "models": models, "parameters": {"weight": 1}} | more


def cut(first, second, **more):
    sources = [
        {"model": "base", "layer_range": first},
        {"model": "deep", "layer_range": second},
    ]
    return {"merge_method": "linear", "slices": [{"sources": sources}]} | more


@pytest.mark.parametrize(
    ("config", "error", "said"),
    [
        (pair("a", "deep"), CheckpointError, "expected 3 layers model.layers.* as in"),
        (pair("a", "bert-a"), CheckpointError, "expected as in"),
        (pair("a", "a"), PlanError, "is given twice"),
        (pair(parameters={"weight": 0}), PlanError, "sum to 0"),
        (pair(parameters={}), PlanError, "weight is not given for tensor"),
        (pair(parameters={"weigth": 1}), PlanError, "did you mean 'weight'"),
        (pair(merge_method="ties"), PlanError, "ties needs a base_model"),
        (pair(merge_method="slerp", parameters={"t": 0.5}), PlanError, "slerp needs a base_model"),
        (
            pair(merge_method="slerp", base_model="base", parameters={"t": 0.5}),
            PlanError,
            "slerp takes 1 model besides the base, found 2",
        ),
        (
            pair(merge_method="model_stock", base_model="a", parameters={}),
            PlanError,
            "takes at least 2 models besides the base, found 1",
        ),
        (pair(merge_method="passthrough", parameters={}), PlanError, "passthrough takes 1 model"),
        (
            pair(merge_method="nuslerp", parameters={"weight": 0}),
            PlanError,
            "name no point of the arc",
        ),
        (
            pair(
                merge_method="della",
                base_model="base",
                parameters={"weight": 1, "density": 0.1, "epsilon": 0.2},
            ),
            PlanError,
            "take a smaller epsilon",
        ),
        (cut([0, 2], [0, 6], parameters={"weight": 1}), PlanError, "equally many layers"),
        (cut([0, 4], [0, 4], parameters={"weight": 1}), PlanError, "which has 3 layers"),
        (
            {
                "merge_method": "ties",
                "base_model": "a",
                "slices": [{"sources": [{"model": "b", "layer_range": [0, 1]}]}],
            },
            PlanError,
            "is not among the sources",
        ),
        (
            {"merge_method": "linear", "modules": {"default": {"models": []}}},
            PlanError,
            "modules is not supported",
        ),
        (pair(base_model={"model": "a", "override_architecture": "X"}), PlanError, "not supported"),
    ],
)
def test_what_is_refused_before_a_weight_is_read(bench, config, error, said):
    with pytest.raises(error) as caught:
        plan_mergekit(bench.write(config), bench.folder / "out")
    assert said in str(caught.value)


def test_integer_tensors_are_the_first_models(bench):
    from safetensors.torch import load_file, save_file

    for name, number in (("a", 1), ("b", 2)):
        (bench.folder / name).mkdir()
        weights = load_file(bench.zoo / name / "model.safetensors") | {"ids": torch.tensor([number])}
        save_file(weights, bench.folder / name / "model.safetensors")
    found = bench.merge(pair(str(bench.folder / "a"), str(bench.folder / "b"), dtype="bfloat16"))
    assert found["ids"].tolist() == [1]


@pytest.mark.parametrize(
    ("names", "config", "stacks", "loose"),
    [
        (
            ("wte.weight", "h.0.attn.w", "h.1.attn.w", "ln_f.weight"),
            {"n_layer": 2},
            {"h.": 2},
            ("wte.weight", "ln_f.weight"),
        ),
        (
            ("m.layers.0.experts.0.w", "m.layers.0.experts.1.w", "m.layers.1.experts.0.w", "norm"),
            {"num_hidden_layers": 2, "num_experts": 2},
            {"m.layers.": 2},
            ("norm",),
        ),
        (
            ("v.blocks.0.w", "t.layers.0.w", "t.layers.1.w", "mlp.0.w", "mlp.2.w"),
            {"text_config": {"num_hidden_layers": 2}, "vision_config": {"depth": 1}},
            {"v.blocks.": 1, "t.layers.": 2},
            ("mlp.0.w", "mlp.2.w"),
        ),
        (("0.w", "1.w", "x"), {}, {"": 2}, ("x",)),
        (("block1.w", "x"), {"num_layers": 1}, {}, ("block1.w", "x")),
    ],
)
def test_anatomy(names, config, stacks, loose):
    found = dissect(names, config)
    assert {prefix: layers.count for prefix, layers in found.stacks.items()} == stacks
    assert found.loose == loose


@pytest.mark.parametrize(
    ("name", "front"),
    [
        ("bert.embeddings.LayerNorm.weight", True),
        ("transformer.wpe.weight", True),
        ("model.tok_embeddings.weight", True),
        ("gpt_neox.embed_out.weight", False),
        ("bert.pooler.dense.weight", False),
        ("cls.predictions.decoder.weight", False),
        ("model.norm.weight", False),
    ],
)
def test_front_and_back(name, front):
    assert is_front(name) is front
