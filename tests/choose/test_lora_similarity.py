"""Adapters compared by what they do."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from taskloom.choose.lora_similarity import Factors, lora_similarity, overlaps, products, spans
from taskloom.choose.task_vectors import cosine_matrix
from taskloom.errors import PlanError
from taskloom.store.pool import open_pool


def draw(seed, rows=7, columns=5, rank=2):
    rng = np.random.default_rng(seed)
    return Factors(rng.normal(size=(rows, rank)), rng.normal(size=(rank, columns)))


def regauged(factors, seed):
    m = np.random.default_rng(seed).normal(size=(len(factors.right),) * 2) + 2 * np.eye(
        len(factors.right)
    )
    return Factors(factors.left @ np.linalg.inv(m), m @ factors.right)


def write(folder, factors, *, alpha=2.0, name="layer"):
    folder.mkdir()
    rank = next(iter(factors.values())).right.shape[0]
    tensors = {}
    for module, each in factors.items():
        prefix = f"base_model.model.{module}"
        tensors[f"{prefix}.lora_A.weight"] = torch.tensor(each.right, dtype=torch.float32)
        tensors[f"{prefix}.lora_B.weight"] = torch.tensor(each.left, dtype=torch.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": list(factors)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    weights = {
        f"{m}.weight": torch.randn(7, 5, generator=torch.Generator().manual_seed(0)) for m in "ab"
    }
    save_file(weights, folder / "model.safetensors")
    return folder


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_products_and_overlaps_do_not_see_the_gauge(seed):
    first, second = draw(seed), draw(seed + 1, rank=3)
    other = regauged(first, seed + 2)
    np.testing.assert_allclose(other.left @ other.right, first.left @ first.right, atol=1e-8)
    np.testing.assert_allclose(
        products([other, second]), products([first, second]), rtol=1e-6, atol=1e-8
    )
    for mine, theirs in zip(overlaps([other, second]), overlaps([first, second]), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-8)
    assert np.abs(other.right - first.right).max() > 1e-3, "what the factors are does change"


def test_products_are_those_of_the_changes():
    three = [draw(0), draw(1, rank=4), None]
    whole = [each.left @ each.right if each else np.zeros((7, 5)) for each in three]
    wanted = [[(a * b).sum() for b in whole] for a in whole]
    np.testing.assert_allclose(products(three), wanted, atol=1e-10)


def test_overlap_by_projections():
    first, second = draw(2), draw(3, rank=3)
    inputs, outputs, both = overlaps([first, second])
    (v, u), (w, x) = (
        (np.linalg.svd(f.left @ f.right)[2][:r].T, np.linalg.svd(f.left @ f.right)[0][:, :r])
        for f, r in ((first, 2), (second, 3))
    )
    assert inputs[0, 1] == pytest.approx(np.trace(v @ v.T @ w @ w.T) / 2)
    assert outputs[0, 1] == pytest.approx(np.trace(u @ u.T @ x @ x.T) / 2)
    np.testing.assert_allclose(inputs.diagonal(), 1)
    assert both.tolist() == [[1, 1], [1, 1]]


def test_a_smaller_space_within_a_larger_one():
    large = draw(4, rank=3)
    small = Factors(large.left[:, :1], large.right[:1])
    inputs, outputs, _ = overlaps([small, large])
    assert inputs[0, 1] == pytest.approx(1.0)
    assert outputs[0, 1] == pytest.approx(1.0)


def test_directions_that_the_other_factor_cancels_are_not_in_the_span():
    left, right = np.array([[1.0, 0], [0, 0], [2, 0]]), np.array([[1.0, 1], [5, 0]])
    reads, writes = spans(Factors(left, right))
    assert reads.shape == (2, 1)
    assert writes.shape == (3, 1)
    np.testing.assert_allclose(np.abs(reads[:, 0]), np.sqrt([0.5, 0.5]))
    nothing = Factors(np.zeros((3, 2)), right)
    assert spans(nothing)[0].shape == (2, 0)
    assert overlaps([nothing, Factors(left, right)])[2][0, 1] == 0


def test_adapters_on_disk(base, tmp_path):
    first = {"a": draw(5), "b": draw(6)}
    same = {m: regauged(f, 9) for m, f in first.items()}
    half = {"a": draw(7)}
    folders = [
        write(tmp_path / "first", first),
        write(tmp_path / "same", same, alpha=20.0),
        write(tmp_path / "half", half),
    ]
    pool = open_pool(base, folders)
    found = lora_similarity(pool)
    assert found.names == ("first", "same", "half")
    assert found.cosine[0, 1] == pytest.approx(1.0, abs=1e-6)
    assert found.inputs[0, 1] == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(found.cosine, cosine_matrix(pool), atol=1e-4)
    inputs, outputs, _ = overlaps([first["a"], half["a"]])
    assert found.inputs[0, 2] == pytest.approx(inputs[0, 1], abs=1e-5)
    assert found.outputs[2, 0] == pytest.approx(outputs[0, 1], abs=1e-5)


def test_opposite_adapters(base, tmp_path):
    one = {"a": draw(8)}
    minus = {"a": Factors(-one["a"].left, one["a"].right)}
    found = lora_similarity(open_pool(base, [write(tmp_path / "x", one), write(tmp_path / "y", minus)]))
    assert found.cosine[0, 1] == pytest.approx(-1.0, abs=1e-6)
    assert found.outputs[0, 1] == pytest.approx(1.0, abs=1e-6)


def test_full_weights_are_refused(base, tmp_path):
    one = write(tmp_path / "one", {"a": draw(1)})
    with pytest.raises(PlanError, match=r"expert 'base' .*expected a LoRA adapter, found full weights"):
        lora_similarity(open_pool(base, [one, base]))
