"""Twin-Merging, the compression: card 29."""

import numpy as np
import pytest
import torch

from taskloom import merge
from taskloom.algebra.twin import factors, kept_numbers, rows_of
from taskloom.errors import PlanError

NAMES = ["one", "two"]
TAU1 = [[3.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
TAU2 = [[1.0, 2.0], [0.0, 1.0], [1.0, -1.0]]
SHARED = np.array([[1.2, 0.6], [0.3, 0.6], [0.3, 0.0]])  # 0.3 times their sum


def of(task, **options):
    base = {"w": torch.zeros(3, 2)}
    experts = [{"w": torch.tensor(tau)} for tau in (TAU1, TAU2)]
    return merge(base, experts, "twin_merging", names=NAMES, task=task, **options)["w"].numpy()


def close(values):
    return pytest.approx(np.array(values), abs=1e-5)


def test_card_29_shared():
    assert of(None) == close(SHARED)


def test_card_29_exclusive_parts_of_rank_1():
    first = [[1.757744, -0.705308], [0.46468, -0.186456], [-0.604008, 0.242362]]
    second = [[-0.487368, 1.291562], [-0.169519, 0.449237], [0.417564, -1.106577]]
    assert of("one", share=0.5) == close(SHARED + first)
    assert of("two", share=0.5) == close(SHARED + second)


def test_card_29_rank_of_a_large_matrix():
    assert kept_numbers((768, 768), "low_rank", 0.1) == 76


def test_everything_kept_is_the_expert():
    for form in ("low_rank", "sparse"):
        assert of("one", share=1.0, form=form) == close(TAU1)
        assert of("two", share=1.0, form=form) == close(TAU2)


def test_nothing_kept_is_the_shared_model():
    assert of("one", share=0.0) == close(SHARED)
    assert of("one", share=0.0, form="sparse") == close(SHARED)


def pool(seed=0, count=3, **shapes):
    generator = np.random.default_rng(seed)
    base = {n: generator.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    experts = [
        {n: w + generator.normal(size=w.shape, scale=0.1).astype(np.float32) for n, w in base.items()}
        for _ in range(count)
    ]
    return base, experts


def torched(weights):
    return {name: torch.from_numpy(np.asarray(w)) for name, w in weights.items()}


SHAPES = {"matrix": (24, 10), "kernel": (12, 2, 3, 3), "vector": (9,), "scalar": (), "small": (3, 3)}


def restated(base, experts, k, *, share, scale, form):
    """Card 29 in plain numpy, and what we do where it says nothing."""
    found = {}
    for name, start in base.items():
        total = sum(e[name].astype(np.float64) - start for e in experts)
        shared = start + scale * total
        own = experts[k][name] - shared
        flat = own.reshape(len(own), -1) if own.ndim > 1 else None
        if flat is None:
            found[name] = experts[k][name]
            continue
        rows, columns = flat.shape
        if form == "sparse":
            count = int(share * flat.size)
            order = np.argsort(-abs(own).reshape(-1), kind="stable")[:count]
            part = np.zeros(flat.size)
            part[order] = own.reshape(-1)[order]
        else:
            rank = int(share * min(rows, columns))
            left, values, right = np.linalg.svd(flat, full_matrices=False)
            part = (left[:, :rank] * values[:rank]) @ right[:rank]
            if rank * (rows + columns) >= rows * columns:
                part = own
        found[name] = shared + part.reshape(own.shape)
    return found


@pytest.mark.parametrize("form", ["low_rank", "sparse"])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.6])
@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_the_rule_restated(form, share, scale):
    base, experts = pool(**SHAPES)
    for k in range(3):
        found = merge(
            torched(base),
            [torched(e) for e in experts],
            "twin_merging",
            names=["a", "b", "c"],
            task="abc"[k],
            share=share,
            scale=scale,
            form=form,
        )
        wanted = restated(base, experts, k, share=share, scale=scale, form=form)
        for name, values in wanted.items():
            np.testing.assert_allclose(found[name].numpy(), values, atol=2e-6, err_msg=name)


def test_what_is_skipped_is_the_experts_own():
    base, experts = pool(**SHAPES)
    given = [torched(e) for e in experts]
    options = {"names": ["a", "b", "c"], "task": "b", "share": 0.1}
    found = merge(torched(base), given, "twin_merging", skip=["mat", "kernel", "small"], **options)
    for name, values in experts[1].items():
        np.testing.assert_allclose(found[name].numpy(), values, atol=1e-6, err_msg=name)


def test_of_all_matrices_of_that_rank_none_is_nearer():
    """Eckart and Young: what is left out has the dropped singular values."""
    part = torch.from_numpy(np.random.default_rng(1).normal(size=(20, 15)))
    values = np.linalg.svd(part.numpy(), compute_uv=False)
    for rank in (0, 3, 14):
        left, right = factors(part, rank)
        assert (left.shape, right.shape) == ((20, rank), (rank, 15))
        gap = np.linalg.norm(part.numpy() - (left @ right).numpy())
        assert gap == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), rel=1e-9)


def test_factors_beyond_the_rank_are_zero():
    part = torch.outer(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0]))
    left, right = factors(torch.cat([part, part], 1), 2)
    assert left[:, 1].tolist() == [0.0] * 3
    assert right[1].tolist() == [0.0] * 4
    zero = factors(torch.zeros(3, 4), 2)
    assert not any(bool(f.any()) for f in zero)


def test_slices_of_a_product_have_the_bytes_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    pair = (torch.randn(700, 5, generator=generator), torch.randn(5, 9, generator=generator))
    whole = rows_of(pair, 0, 6300)
    assert torch.equal(whole.reshape(700, 9)[:256], pair[0][:256].double() @ pair[1].double())
    for start, stop in ((0, 1), (2303, 2305), (2304, 6300), (4000, 4001), (17, 17)):
        assert torch.equal(rows_of(pair, start, stop), whole[start:stop])


def test_a_task_that_is_not_in_the_pool():
    for share in (0.5, 1.0):
        with pytest.raises(PlanError, match="there is no expert 'twoo': did you mean 'two'"):
            of("twoo", share=share)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_shares_that_cannot_be(share):
    with pytest.raises(PlanError, match="option 'share'"):
        of("one", share=share)
