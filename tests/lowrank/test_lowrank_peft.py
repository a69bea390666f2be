"""What peft's ``add_weighted_adapter`` makes of LoRA adapters, held against our methods on the same.

The same (to rounding):

- ``cat`` and ``svd`` of full rank are `task_arithmetic` with ``scale=1``; ``cat`` is also what
  `taskloom.merge_adapters` writes, factor by factor.
- ``magnitude_prune_svd`` is `magnitude_pruning`, ``ties_svd`` is `ties` with ``scope="tensor"``.
- ``dare_linear_svd`` and ``dare_ties_svd`` are `dare_linear` and `dare_ties`, given the same draws.

Deliberately not the same:

- ``linear`` (and ``ties``, ``dare_linear``, ``dare_ties``, ``magnitude_prune`` without ``svd``) merge A
  and B apart from each other, which brings products of unlike adapters; we merge what adapters do.
- With unequal weights ``ties_svd`` elects signs before it weighs and divides by a count; our variants
  elect by weighted sums, as mergekit does.
- peft draws its masks from the state of torch; ours depend on seed, tensor and expert alone.
- ``magnitude_prune`` and ``ties`` break equal magnitudes as topk does; ours take the lower index.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from lowrank_models import adapter, bert

import taskloom
from taskloom.algebra.random import bernoulli
from taskloom.store.adapter import AdapterCheckpoint
from taskloom.store.open import open_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = ("one", "two", "three")
WEIGHTS = [1.0, 0.5, 2.0]
FULL = 16  # the smaller side of every matrix that the adapters change
TENSORS = [
    f"encoder.layer.{layer}.attention.self.{kind}.weight"
    for layer in (0, 1)
    for kind in ("query", "value")
]


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peft")
    model = bert()
    model.save_pretrained(folder / "base")
    for number, name in enumerate(NAMES):
        adapter(
            model, folder / name, seed=number + 1, r=4, lora_alpha=6, target_modules=["query", "value"]
        )
    return folder, model


def theirs(room, kind, weights, **options):
    """Peft's merged change of every matrix, by the name that transformers gives it."""
    import copy

    import peft

    folder, model = room
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), folder / NAMES[0], NAMES[0])
        for name in NAMES[1:]:
            loaded.load_adapter(folder / name, name)
        loaded.add_weighted_adapter(list(NAMES), weights, "sum", combination_type=kind, **options)
    found = {}
    for name, module in loaded.named_modules():
        if hasattr(module, "lora_A") and "sum" in getattr(module, "lora_A", {}):
            found[f"{name.removeprefix('base_model.model.')}.weight"] = module.get_delta_weight(
                "sum"
            ).detach()
    assert sorted(found) == sorted(TENSORS)
    return found


def ours(room, method, **options):
    """Our merged change: of whole matrices, in float64."""
    folder, _ = room
    base = {n: t.double() for n, t in read(open_checkpoint(folder / "base")).items()}
    experts = {
        name: {
            n: t.double() if n not in TENSORS else base[n] + exact(folder, name)[n]
            for n, t in base.items()
        }
        for name in NAMES
    }
    merged = taskloom.merge(base, experts, method, **options)
    return {name: merged[name] - base[name] for name in TENSORS}


def read(checkpoint):
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


def exact(folder, name):
    """Alpha over rank times B A, in float64."""
    from safetensors.torch import load_file

    factors = load_file(folder / name / "adapter_model.safetensors")
    found = {}
    for key, a in factors.items():
        if "lora_A" in key:
            b = factors[key.replace("lora_A", "lora_B")]
            tensor = key.removeprefix("base_model.model.").replace(".lora_A", "")
            found[tensor] = 6 / 4 * b.double() @ a.double()
    return found


def compare(found, expected, what):
    gap = max(float((found[n] - expected[n].double()).abs().max()) for n in TENSORS)
    size = max(float(t.abs().max()) for t in expected.values())
    print(f"{what}: largest difference {gap:.2g} of {size:.2g}")
    assert gap < 2e-6 * max(1.0, size)


def test_cat_is_task_arithmetic(room):
    compare(
        ours(room, "task_arithmetic", weights=WEIGHTS, scale=1.0), theirs(room, "cat", WEIGHTS), "cat"
    )


def test_cat_is_what_merge_adapters_writes(room, tmp_path):
    folder, _ = room
    sources = {name: folder / name for name in NAMES}
    options = {"weights": WEIGHTS, "scale": 1.0}
    taskloom.merge_adapters(folder / "base", sources, "task_arithmetic", tmp_path / "sum", **options)
    base = open_checkpoint(folder / "base")
    written = AdapterCheckpoint(tmp_path / "sum", base)
    found = {n: written.read(n).double() - base.read(n).double() for n in TENSORS}
    expected = theirs(room, "cat", WEIGHTS)
    compare(found, expected, "merge_adapters")


def test_svd_of_full_rank_is_task_arithmetic(room):
    expected = theirs(room, "svd", WEIGHTS, svd_rank=FULL)
    compare(ours(room, "task_arithmetic", weights=WEIGHTS, scale=1.0), expected, "svd")


@pytest.mark.parametrize("density", [0.2, 0.53])
def test_magnitude_prune(room, density):
    expected = theirs(room, "magnitude_prune_svd", WEIGHTS, svd_rank=FULL, density=density)
    found = ours(room, "magnitude_pruning", density=density, weights=WEIGHTS, scale=1.0, scope="tensor")
    compare(found, expected, f"magnitude_prune {density}")


@pytest.mark.parametrize("density", [0.2, 0.53])
def test_ties_of_equal_weights(room, density):
    expected = theirs(room, "ties_svd", [1.0, 1.0, 1.0], svd_rank=FULL, density=density)
    found = ours(room, "ties", density=density, scale=1.0, scope="tensor")
    compare(found, expected, f"ties {density}")


def test_ties_of_unequal_weights_elects_otherwise(room):
    expected = theirs(room, "ties_svd", WEIGHTS, svd_rank=FULL, density=0.5)
    found = ours(room, "ties", density=0.5, scale=1.0, scope="tensor", weights=WEIGHTS)
    assert max(float((found[n] - expected[n]).abs().max()) for n in TENSORS) > 0.01


@pytest.mark.parametrize("kind", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("density", [0.3, 0.8])
def test_dare_with_our_draws(room, monkeypatch, kind, density):
    from peft.utils import merge_utils

    folder, _ = room
    weights = WEIGHTS if kind == "dare_linear" else [1.0, 1.0, 1.0]
    options = {"p": 1 - density, "scale": 1.0, "seed": 3}
    options |= {"weights": weights} if kind == "dare_linear" else {"density": 1.0}
    found = ours(room, kind, **options)
    expected = {}
    for name in TENSORS:
        draws = iter(NAMES)

        def pruned(tensor, density, rescale, name=name, draws=draws):
            dropped = bernoulli(1 - density, 3, name, next(draws), 0, tensor.numel())
            return tensor * ~dropped.reshape(tensor.shape) / (density if rescale else 1)

        monkeypatch.setattr(merge_utils, "random_pruning", pruned)
        taus = [exact(folder, expert)[name] for expert in NAMES]
        merge = getattr(merge_utils, kind)
        expected[name] = merge(taus, torch.tensor(weights, dtype=torch.float64), density)
    compare(found, expected, f"{kind} {density}")


def test_linear_adds_products_of_unlike_adapters(room):
    """Peft's sum of factors, restated; what it has beyond ours are the cross terms."""
    from safetensors.torch import load_file

    folder, _ = room
    expected = theirs(room, "linear", WEIGHTS)
    found = ours(room, "task_arithmetic", weights=WEIGHTS, scale=1.0)
    factors = [load_file(folder / name / "adapter_model.safetensors") for name in NAMES]
    roots = [(weight * 6 / 4) ** 0.5 for weight in WEIGHTS]
    for name in TENSORS:
        key = f"base_model.model.{name.removesuffix('.weight')}.lora_{{}}.weight"
        lefts = [r * f[key.format("B")].double() for r, f in zip(roots, factors, strict=True)]
        rights = [r * f[key.format("A")].double() for r, f in zip(roots, factors, strict=True)]
        crossed = sum(b @ a for i, b in enumerate(lefts) for j, a in enumerate(rights) if i != j)
        assert torch.allclose(expected[name].double(), found[name] + crossed, atol=2e-6)
        assert float(crossed.abs().max()) > 0.01
