"""Deterministic methods against the functions of fusion-bench, where it is (marker ``peer``).

Compared with fusion-bench 0.2.33, installed without what it needs (``pip install --no-deps``): the
functions of its files are run by themselves. Where it follows the authors' code and not the paper, ours
is the variant of that name.
"""

from __future__ import annotations
import __future__

import ast
import contextlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from taskloom import merge

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]

SHAPES = {"dense": (24, 16), "square": (16, 16), "cube": (3, 4, 5), "bias": (30,)}


def functions(file: str, **known: Any) -> dict[str, Any]:
    """The functions of one file of the peer, without the imports of that file."""
    spec = importlib.util.find_spec("fusion_bench")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("fusion-bench is not installed")
    path = Path(spec.submodule_search_locations[0]) / "method" / file
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    flags = __future__.annotations.compiler_flag
    found = {"torch": torch, "print": lambda *_: None, **known}
    exec(compile(tree, str(path), "exec", flags), found)
    return found


def pool(count=3):
    """A base of zeros and task vectors, in float64."""
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    taus = [
        {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in SHAPES.items()}
        for _ in range(count)
    ]
    return base, taus


def flat(weights):
    return torch.cat([weights[name].reshape(-1) for name in SHAPES])


def compare(found, expected, what, limit=1e-9):
    gap = float((flat(found) - flat(expected).double()).abs().max())
    print(f"{what}: largest difference {gap:.2g}")
    assert gap < limit


@pytest.mark.parametrize("density", [0.2, 0.53])
def test_ties_released(density):
    base, taus = pool()
    theirs = functions("ties_merging/ties_merging_utils.py")["ties_merging"]
    rows = torch.stack([flat(tau) for tau in taus])
    expected = theirs(rows, reset_thresh=density, merge_func="mean")
    found = merge(base, taus, "ties", density=density, scale=1.0, variant="released")
    gap = float((flat(found) - expected).abs().max())
    print(f"ties released {density}: largest difference {gap:.2g}")
    assert gap < 1e-9


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp(t):
    import logging

    import numpy as np

    _, (first, second) = pool(2)
    theirs = functions("slerp/slerp_utils.py", log=logging.getLogger(), np=np)["slerp"]
    expected = {name: theirs(t, first[name], second[name]) for name in SHAPES}
    compare(merge(None, [first, second], "slerp", t=t), expected, f"slerp {t}")


def test_emr_released():
    base, taus = pool()

    def total(several):
        return {name: sum(each[name] for each in several) for name in SHAPES}

    theirs = functions("emr_merging/utils.py", state_dict_sum=total)["emr_merge"]
    shared, masks, factors = theirs(taus)
    for k in range(3):
        expected = {name: shared[name] * masks[name][k] * factors[k].double() for name in SHAPES}
        names = ["a", "b", "c"]
        found = merge(base, taus, "emr", names=names, task=names[k], variant="released")
        compare(found, expected, f"emr released {k}", 2e-6)  # their factors are float32


@pytest.mark.parametrize("threshold", [0.2, 0.4, 1.0])
def test_tall_masks(threshold):
    base, taus = pool()
    theirs = functions("tall_mask/utils.py")["generate_task_masks"]
    rows = torch.stack([flat(tau) for tau in taus])
    masks = theirs(rows, rows, flat(base), tall_mask_lambda=threshold)
    for k, name in enumerate(["a", "b", "c"]):
        found = merge(base, taus, "tall_masks", names=["a", "b", "c"], task=name, threshold=threshold)
        assert torch.allclose(flat(found), rows.sum(0) * masks[k], atol=1e-12)


def test_iso_c():
    base, taus = pool()
    theirs = functions(
        "isotropic_merging/iso_utils.py", timeit_context=lambda _: contextlib.nullcontext()
    )
    compare(merge(base, taus, "iso_c"), theirs["iso_c"](taus, "cpu"), "iso_c")


@pytest.mark.parametrize("fraction", [0.5, 0.8])
def test_iso_cts(fraction):
    base, taus = pool()
    theirs = functions("isotropic_merging/iso_utils.py")["iso_cts"]
    expected = theirs(taus, fraction, "cpu")
    compare(merge(base, taus, "iso_cts", common=fraction), expected, f"iso_cts {fraction}", 1e-8)


def test_tsv_merge(monkeypatch):
    """Theirs makes room for the vectors in float32; in float64 here."""
    base, taus = pool()
    zeros = torch.zeros
    theirs = functions("task_singular_vector/utils/TSVM_utils.py")["compute_and_sum_svd_mem_reduction"]
    wide = {"dtype": torch.float64}
    monkeypatch.setattr(torch, "zeros", lambda *size, **how: zeros(*size, **wide, **how))
    expected = theirs(taus, "cpu")
    monkeypatch.undo()
    compare(merge(base, taus, "tsv_merge"), expected, "tsv_merge", 1e-8)
