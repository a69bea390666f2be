"""taskloom.merge and taskloom.merge_files."""

import copy
import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import taskloom
from taskloom import merge, merge_files
from taskloom.algebra import chain, mean
from taskloom.errors import CheckpointError, NumericalError, OutputError, PlanError, UnknownName
from taskloom.merging.recipe import Recipe
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

BASE = {"a": torch.zeros(2, 2), "b": torch.zeros(3)}


def expert(value):
    return {name: torch.full_like(t, value) for name, t in BASE.items()}


EXPERTS = [expert(1.0), expert(3.0)]


# what cannot be


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"recipe": "tise"}, UnknownName, "unknown merging method 'tise': did you mean 'ties'"),
        ({"recipe": "ties", "densty": 1}, PlanError, "unknown option 'densty': did you mean 'density'"),
        ({"recipe": "ties", "density": 2}, PlanError, "option 'density' is 2"),
        (
            {"recipe": "slerp", "experts": EXPERTS[:1]},
            PlanError,
            r"exactly 2 experts.*has 1 ",
        ),
        ({"recipe": "ties", "base": None}, PlanError, "needs the base"),
        ({"weights": [1]}, PlanError, r"1 weights were given for 2 experts \(expert-1, expert-2\)"),
        ({"weights": {"expert-1": 1, "expert-3": 1}}, PlanError, "weights name the expert 'expert-3'"),
        ({"weights": {"expert-1": 1}}, PlanError, "weights lack the experts expert-2"),
        ({"names": ["x"]}, CheckpointError, r"one name per expert \(2\), found 1"),
        ({"names": ["x", "x"]}, CheckpointError, "two experts are called 'x'"),
        ({"experts": []}, CheckpointError, "at least one expert"),
        ({"experts": expert(1.0)}, CheckpointError, "found Tensor"),
        ({"recipe": chain(mean())}, PlanError, "expected a method's name or a Recipe, found Chain"),
        ({"recipe": Recipe.of("average"), "seed": 1}, PlanError, "has its own already"),
        ({"recipe": Recipe.of("average"), "scale": 1}, PlanError, "has its own already"),
        ({"dtype": torch.int8}, PlanError, "not a floating point dtype"),
        ({"experts": ["/no/such/directory", EXPERTS[0]]}, CheckpointError, "/no/such/directory"),
    ],
)
def test_errors(call, error, message):
    call = {"base": BASE, "experts": EXPERTS, "recipe": "average", **call}
    with pytest.raises(error, match=message):
        merge(**call)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda e: e.pop("b"), ("expert 'two'", "'b'", "found none")),
        (lambda e: e.update(c=torch.ones(1)), ("expert 'two'", "'c'", "expected none")),
        (lambda e: e.update(a=torch.ones(2, 3)), ("expert 'two'", "'a'", "[2, 2]", "[2, 3]")),
        (lambda e: e.update(a=torch.ones(2, 2).long()), ("expert 'two'", "'a'", "int64")),
        (lambda e: e.update(a=np.ones((2, 2))), ("'a'", "ndarray")),
    ],
)
def test_experts_that_do_not_fit(change, parts):
    odd = expert(1.0)
    change(odd)
    with pytest.raises(CheckpointError) as caught:
        merge(BASE, {"one": expert(1.0), "two": odd})
    assert all(part in str(caught.value) for part in parts), caught.value


# what comes out


def test_the_package_exports_both():
    assert taskloom.merge is merge
    assert taskloom.merge_files is merge_files


def test_order_and_dtype_are_the_bases():
    base = {"z": torch.zeros(1, dtype=torch.bfloat16), "a": torch.zeros(1), "n": torch.arange(2)}
    backwards = dict(reversed({k: v.clone() for k, v in base.items()}.items()))
    found = merge(base, [backwards])
    assert list(found) == ["z", "a", "n"]
    assert [t.dtype for t in found.values()] == [torch.bfloat16, torch.float32, torch.int64]


def test_dtype_leaves_integers_alone():
    base = {"w": torch.ones(1), "n": torch.arange(2)}
    found = merge(base, [dict(base)], dtype=torch.float16)
    assert [t.dtype for t in found.values()] == [torch.float16, torch.int64]


def test_names_come_from_the_mapping_or_the_argument():
    weights = {"x": 3, "y": 1}
    by_mapping = merge(BASE, {"x": EXPERTS[0], "y": EXPERTS[1]}, weights=weights)
    by_names = merge(BASE, EXPERTS, names=["x", "y"], weights=weights)
    assert by_mapping["b"].tolist() == by_names["b"].tolist() == [1.5] * 3


def test_the_result_shares_no_memory_with_the_inputs():
    base, one = expert(1.0), expert(2.0)
    for recipe in ("average", "task_arithmetic", "ties"):
        for tensor in merge(base, [one], recipe).values():
            tensor.add_(1)
    assert base["b"].tolist() == [1.0] * 3
    assert one["b"].tolist() == [2.0] * 3


def test_a_recipe_object():
    recipe = Recipe.of("task_arithmetic", scale=0.5)
    assert merge(BASE, EXPERTS, recipe)["b"].tolist() == [2.0] * 3


def test_a_chain_of_ones_own():
    recipe = Recipe("mine", {}, chain(mean()))
    assert merge(BASE, EXPERTS, recipe)["b"].tolist() == [2.0] * 3


def test_seeds():
    draws = [merge(BASE, EXPERTS, "dare_linear", seed=s)["a"].tolist() for s in (1, 1)]
    assert draws[0] == draws[1]


# modules


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(self.norm(self.embedding(ids)))


def modules(count=3):
    torch.manual_seed(0)
    base = Tied()
    experts = [copy.deepcopy(base) for _ in range(count - 1)]
    for module in experts:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter))
    return base, experts


def test_modules_with_tied_weights():
    base, experts = modules()
    merged = merge(base, experts, "task_arithmetic", scale=0.5)
    assert set(merged) == set(base.state_dict())
    assert merged["head.weight"] is merged["embedding.weight"]
    target = Tied()
    target.load_state_dict(merged)
    expected = sum(e.embedding.weight for e in experts) / 2
    assert torch.allclose(target.head.weight, expected, atol=1e-6)
    assert target.norm.num_batches_tracked == base.norm.num_batches_tracked


def test_tied_weights_are_ranked_once():
    """Counted twice, the large tied matrix would push the norm's weight out."""
    base, (one, _) = modules()
    with torch.no_grad():
        for name, parameter in one.named_parameters():
            offset = torch.full_like(parameter, 10.0 if "embedding" in name else 1.0)
            parameter.copy_(base.get_parameter(name) + offset)
    density = 18 / (15 + 3 * 4)  # of embedding 15, norm weight, bias, running mean and variance 3 each
    merged = merge(base, [one], "ties", density=density)
    assert torch.allclose(merged["norm.weight"], one.norm.weight)


def test_modules_under_no_grad_keep_no_graph():
    base, experts = modules()
    assert merge(base, experts)["embedding.weight"].requires_grad
    with torch.no_grad():
        assert not merge(base, experts)["embedding.weight"].requires_grad


# gradients


def vectors(count=3, n=6):
    generator = torch.Generator().manual_seed(0)
    tensors = torch.randn(count + 1, n, generator=generator, dtype=torch.float64)
    return {"w": tensors[0]}, [{"w": t} for t in tensors[1:]]


@pytest.mark.parametrize(
    "method", ["task_arithmetic", "ties", "dare_ties", "dare_linear", "breadcrumbs"]
)
def test_the_gradient_of_a_scale_is_an_inner_product(method):
    """d loss / d scale = <d loss / d weights, merged task vector>."""
    base, experts = vectors()
    scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    merged = merge(base, experts, method, scale=scale)["w"]
    direction = torch.randn(6, dtype=torch.float64)
    (merged @ direction).backward()
    vector = merge(base, experts, method, scale=1.0)["w"] - base["w"]
    assert torch.allclose(scale.grad, direction @ vector)


def test_the_gradient_of_a_coefficient_is_an_inner_product_with_its_task_vector():
    base, experts = vectors()
    weights = torch.tensor([0.2, 0.3, 0.4], dtype=torch.float64, requires_grad=True)
    merged = merge(base, experts, "task_arithmetic", weights=weights, scale=1.0)["w"]
    merged.retain_grad()
    (merged**3).sum().backward()
    taus = torch.stack([e["w"] - base["w"] for e in experts])
    assert torch.allclose(weights.grad, taus @ merged.grad)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("average", {}),
        ("task_arithmetic", {}),
        ("task_negation", {}),
        ("ties", {"density": 0.5}),
        ("ties", {"density": 0.5, "variant": "mergekit", "weights": [1, 2, 0.5]}),
        ("dare_linear", {"p": 0.3}),
        ("breadcrumbs", {"remove": 0.2, "density": 0.5}),
    ],
)
def test_gradients_of_expert_tensors(method, options):
    base, experts = vectors()

    def out(base, *tensors):
        return merge({"w": base}, [{"w": t} for t in tensors], method, **options)["w"]

    inputs = [t["w"].requires_grad_() for t in (base, *experts)]
    assert torch.autograd.gradcheck(out, inputs)


@pytest.mark.parametrize("t", [0.0, 0.4])
def test_gradients_through_slerp(t):
    _, experts = vectors(2)
    number = torch.tensor(t, dtype=torch.float64, requires_grad=True)

    def out(number, a, b):
        return merge(None, [{"w": a}, {"w": b}], "slerp", t=number)["w"]

    assert torch.autograd.gradcheck(out, (number, *(e["w"].requires_grad_() for e in experts)))


def test_gradients_through_a_model():
    base, experts = modules()
    weights = torch.tensor([0.5, 0.5], requires_grad=True)
    merged = merge(base, experts, "average", weights=weights)
    for name, _ in base.named_buffers():  # batch norm refuses running statistics with a gradient
        merged[name] = merged[name].detach()
    ids = torch.tensor([0, 1, 2])
    torch.func.functional_call(Tied(), merged, (ids,)).square().sum().backward()
    assert weights.grad.abs().sum() > 0


# files


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A tiny BERT, two tuned copies and a LoRA adapter, as directories."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BertModel(config).eval()
    model.save_pretrained(folder / "base")
    (folder / "base" / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    (folder / "base" / "vocab.txt").write_text("[PAD]\n[UNK]\na\nb\n")
    for name in ("one", "two"):
        tuned = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in tuned.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        tuned.save_pretrained(folder / name)
    return folder


def read(path):
    checkpoint = SafetensorsCheckpoint(path)
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


def test_merge_files_is_loaded_by_transformers(bert, tmp_path):
    from transformers import AutoModel

    report = merge_files(
        bert / "base", [bert / "one", bert / "two"], "ties", tmp_path / "out", density=0.5
    )
    model = AutoModel.from_pretrained(report.path).eval()
    expected = merge(bert / "base", [bert / "one", bert / "two"], "ties", density=0.5)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert {"config.json", "tokenizer_config.json", "vocab.txt"} <= {
        p.name for p in report.path.iterdir()
    }


def test_the_report(bert, tmp_path):
    report = merge_files(
        bert / "base", {"x": bert / "one", "y": bert / "two"}, "ties", tmp_path / "out", density=0.5
    )
    size = sum(t.nbytes for t in read(bert / "base").values())
    assert report.path == tmp_path / "out"
    assert (report.method, report.options, report.experts) == ("ties", {"density": 0.5}, ("x", "y"))
    assert report.composition == "keep(0.5, model) -> elect -> mean(kept) -> scale(1)"
    assert (report.reads, report.bytes_read) == (3, 3 * 3 * size)
    assert report.seconds > 0
    assert report.peak_memory_bytes > 10_000_000
    assert report.digest == SafetensorsCheckpoint(tmp_path / "out").digest()


def test_the_same_merge_has_the_same_digest(bert, tmp_path):
    pool = [bert / "one", bert / "two"]
    digests = {
        merge_files(bert / "base", pool, "dare_ties", tmp_path / str(i), seed=s).digest
        for i, s in enumerate((5, 5, 6))
    }
    assert len(digests) == 2


def test_dtype_is_written_and_declared(bert, tmp_path):
    merge_files(bert / "base", [bert / "one"], "average", tmp_path / "out", dtype=torch.bfloat16)
    assert {t.dtype for t in read(tmp_path / "out").values()} == {torch.bfloat16}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config.get("dtype", config.get("torch_dtype")) == "bfloat16"


def test_without_a_base_the_first_expert_is_the_template(bert, tmp_path):
    report = merge_files(None, [bert / "one", bert / "two"], "average", tmp_path / "out")
    assert (report.path / "config.json").is_file()


def test_memory_and_disk_in_one_pool(bert, tmp_path):
    found = merge(bert / "base", [bert / "one", read(bert / "two")])
    assert torch.equal(
        found["pooler.dense.bias"], merge(None, [bert / "one", bert / "two"])["pooler.dense.bias"]
    )


@pytest.mark.parametrize(
    ("option", "word", "told"),
    [("nan", "alow", "did you mean 'allow'"), ("digests", "al", "did you mean 'all'")],
)
def test_other_words_are_refused_before_anything_is_read(tmp_path, option, word, told):
    with pytest.raises(UnknownName, match=f"unknown value of {option} '{word}': {told}"):
        merge_files("nowhere", ["nobody"], "average", tmp_path / "out", **{option: word})
    assert not [*tmp_path.iterdir()]


def test_an_existing_output_is_kept(bert, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="out"):
        merge_files(bert / "base", [bert / "one"], "average", target)
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "mine.txt"]
    assert (target / "mine.txt").read_text() == "mine"
    merge_files(bert / "base", [bert / "one"], "average", target, overwrite=True)
    assert not (target / "mine.txt").exists()
    assert read(target)


def stop_at(done_at, error):
    def progress(label, done, total):
        if done == done_at:
            raise error

    return progress


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("midway")])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_midway_leaves_what_was_there(bert, tmp_path, error, overwrite):
    target = tmp_path / "out"
    if overwrite:
        merge_files(bert / "base", [bert / "two"], "average", target)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(type(error)):
        merge_files(
            bert / "base",
            [bert / "one"],
            "average",
            target,
            overwrite=overwrite,
            progress=stop_at(5, error),
        )
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert target.exists() == overwrite
    assert len(list(tmp_path.iterdir())) == int(overwrite)


def test_nan_midway_leaves_nothing(bert, tmp_path):
    bad = read(bert / "one")
    bad["pooler.dense.weight"][0, 0] = float("nan")
    with pytest.raises(NumericalError, match=r"'pooler\.dense\.weight' of expert 'expert-1'"):
        merge_files(bert / "base", [bad], "average", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# adapters


@pytest.fixture(scope="module")
def adapter(bert):
    pytest.importorskip("peft")
    from peft import LoraConfig, get_peft_model
    from transformers import BertModel

    torch.manual_seed(1)
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["query", "value"], init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
        model = get_peft_model(BertModel.from_pretrained(bert / "base"), config)
    model.save_pretrained(bert / "adapter")
    whole = model.merge_and_unload()
    whole.save_pretrained(bert / "whole")
    return bert / "adapter"


def test_an_adapter_merges_as_the_model_it_makes(bert, adapter):
    found = merge(bert / "base", [adapter, bert / "one"], "task_arithmetic", scale=0.5)
    expected = merge(bert / "base", [bert / "whole", bert / "one"], "task_arithmetic", scale=0.5)
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=1e-6), name


def test_an_adapter_to_disk(bert, adapter, tmp_path):
    from transformers import AutoModel

    report = merge_files(bert / "base", [adapter], "task_arithmetic", tmp_path / "out", scale=1.0)
    assert report.experts == ("adapter",)
    assert not (report.path / "adapter_config.json").exists()
    model = AutoModel.from_pretrained(report.path)
    whole = read(bert / "whole")
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, whole[name], atol=1e-6), name


def test_an_adapter_without_its_base(adapter):
    with pytest.raises(CheckpointError, match="Give the base"):
        merge(None, [adapter], "average")
