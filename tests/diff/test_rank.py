"""Effective and stable rank against numpy's SVD; the bounds of the sketch hold the truth."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import taskloom
from taskloom.choose.diff import rank


def truth(matrix):
    values = np.linalg.svd(np.asarray(matrix, dtype=np.float64), compute_uv=False)
    shares = values[values > 1e-9 * values[0]] / values.sum()
    return math.exp(-(shares * np.log(shares)).sum()), (values**2).sum() / values[0] ** 2


def diff_of(matrix, **options):
    base = torch.zeros(matrix.shape)
    return taskloom.diff({"w": base}, {"a": {"w": matrix}}, **options).ranks[0]


@settings(max_examples=40)
@given(
    rows=st.integers(2, 40), columns=st.integers(2, 40), r=st.integers(1, 5), seed=st.integers(0, 999)
)
def test_exact_for_every_shape_and_rank(rows, columns, r, seed):
    rng = np.random.default_rng(seed)
    matrix = torch.tensor(rng.normal(size=(rows, r)) @ rng.normal(size=(r, columns)))
    found = diff_of(matrix.float(), slice_elements=50)
    effective, stable = truth(matrix.float())
    assert found.how == "exact"
    assert found.effective == found.low == found.high == pytest.approx(effective, rel=1e-4)
    assert found.stable == pytest.approx(stable, rel=1e-6)
    assert found.largest == min(rows, columns)
    assert 1 <= found.stable <= found.largest + 1e-9
    assert found.effective <= min(r, found.largest) * (1 + 1e-4)


def test_equal_directions_count_in_full():
    found = diff_of(torch.eye(7) * 0.3)
    assert found.effective == pytest.approx(7)
    assert found.stable == pytest.approx(7)


def test_zeros_have_no_rank():
    found = diff_of(torch.zeros(4, 5))
    assert (found.effective, found.stable, found.low, found.high) == (0, 0, 0, 0)
    sketched = diff_of(torch.zeros(4, 5), exact_rank_up_to=2)
    assert (sketched.how, sketched.effective, sketched.stable) == ("sketch", 0, 0)


SPECTRA = {
    "flat": np.ones(200),
    "power": 1 / np.arange(1, 201),
    "exponential": np.exp(-np.arange(200) / 15),
    "steps": np.repeat([4.0, 2.0, 1.0, 0.1], 50),
    "low": np.r_[np.ones(12), np.zeros(188)],
    "lora with noise": np.r_[np.ones(8), np.full(192, 1e-3)],
    "linear": np.linspace(1, 0.01, 200),
}


def spectrum(values, seed=0, shape=(220, 200)):
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.normal(size=(shape[0], len(values))))[0]
    right = np.linalg.qr(rng.normal(size=(shape[1], len(values))))[0]
    return torch.tensor(left * values @ right.T, dtype=torch.float32)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("wide", [False, True])
def test_the_bounds_of_a_sketch_hold_the_truth(name, wide):
    matrix = spectrum(SPECTRA[name])
    found = diff_of(matrix.T.contiguous() if wide else matrix, exact_rank_up_to=100)
    effective, stable = truth(matrix)
    assert found.how == "sketch"
    assert found.low * 0.99 <= effective <= found.high * 1.01
    assert found.low <= found.effective <= found.high
    assert found.stable == pytest.approx(stable, rel=0.02)


@pytest.mark.parametrize("name", ["exponential", "low"])
def test_what_the_leading_values_hold_is_found_almost_exactly(name):
    found = diff_of(spectrum(SPECTRA[name]), exact_rank_up_to=100)
    effective, _ = truth(spectrum(SPECTRA[name]))
    assert found.effective == pytest.approx(effective, rel=0.01)
    assert found.high / found.low < 1.05


def test_a_gaussian_matrix_lies_within_the_bounds():
    matrix = torch.randn(300, 260, generator=torch.Generator().manual_seed(1))
    found = diff_of(matrix, exact_rank_up_to=128)
    assert found.low <= truth(matrix)[0] <= found.high


@settings(max_examples=50)
@given(values=st.lists(st.floats(0.01, 1), min_size=3, max_size=30), share=st.floats(0.3, 1))
def test_bounds_from_leading_values_alone(values, share):
    ordered = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    leading = ordered[: max(2, round(share * len(values)))]
    low, high = rank.entropy_bounds(leading, float(ordered.square().sum()), len(values))
    assert 1 <= low <= high <= len(values) * (1 + 1e-9)


@pytest.mark.parametrize("kind", ["even", "few", "falling", "two levels"])
def test_bounds_hold_the_truth_to_two_per_cent(kind):
    rng = np.random.default_rng(3)
    for _ in range(200):
        uniform = rng.random(int(rng.integers(3, 200)))
        levels = np.where(uniform > 0.5, 0.9, 0) + 0.1 * uniform
        drawn = {"even": uniform, "few": uniform**8, "falling": np.exp(-12 * uniform)}
        values = torch.tensor(np.sort(drawn.get(kind, levels))[::-1].copy())
        leading = values[: max(1, int(len(values) * 0.6 * rng.random()))]
        low, high = rank.entropy_bounds(leading, float(values.square().sum()), len(values))
        assert low * 0.98 <= rank.effective_rank(values) <= high * 1.02


def test_the_sketch_is_seeded_by_content():
    matrix = torch.randn(150, 140, generator=torch.Generator().manual_seed(2))
    one = diff_of(matrix, exact_rank_up_to=64)
    assert one == diff_of(matrix, exact_rank_up_to=64)
    assert one != diff_of(matrix, exact_rank_up_to=64, seed=1)


def test_estimates_are_announced():
    matrix = torch.randn(20, 30)
    found = taskloom.diff({"w": 0 * matrix}, {"a": {"w": matrix}}, exact_rank_up_to=10)
    assert any("larger than 10 on both sides" in note for note in found.notes)


def test_an_adapter_is_ranked_by_its_factors(tmp_path):
    """Rounding to bfloat16 fills a low-rank change with noise; the factors know better."""
    base = torch.randn(24, 16).to(torch.bfloat16)
    a, b = torch.randn(3, 16), torch.randn(24, 3)
    found = taskloom.diff(write_base(tmp_path / "base", base), [write_adapter(tmp_path / "a", a, b)])
    (entry,) = found.ranks
    assert entry.how == "factors"
    assert (entry.effective, entry.stable) == pytest.approx(truth(b.double() @ a.double()), rel=1e-6)
    assert entry.effective <= 3


def write_base(folder, weight):
    from safetensors.torch import save_file

    folder.mkdir()
    save_file({"block.dense.weight": weight}, folder / "model.safetensors")
    return folder


def write_adapter(folder, a, b):
    import json

    from safetensors.torch import save_file

    folder.mkdir()
    name = "base_model.model.block.dense"
    save_file(
        {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}, folder / "adapter_model.safetensors"
    )
    config = {"peft_type": "LORA", "r": len(a), "lora_alpha": 2 * len(a), "target_modules": ["dense"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_vectors_and_thin_matrices_have_no_rank():
    base = {"v": torch.zeros(5), "column": torch.zeros(5, 1), "box": torch.zeros(2, 2, 2)}
    expert = {name: value + 1 for name, value in base.items()}
    assert taskloom.diff(base, {"a": expert}).ranks == ()
