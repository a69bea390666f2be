"""TIES: card 6, three variants."""

import numpy as np
import pytest
import torch

from algebra import restated
from taskloom import merge
from taskloom.errors import PlanError

from ..fixture import TAU1, TAU2, close, delta, merged

TIE = [[0.5, -0.25, 0.25, -0.5], [-0.5, -0.25, -0.5, -0.5]]


def test_card_6_released_code():
    found = merged("ties", density=0.5, variant="released")
    assert found == close([0.875, 0.1875, 0.125, 0.25, 0.625, -0.5])


def test_card_6_released_tie():
    """Nothing trimmed; column 1 sums to 0 and takes the sign most entries elected."""
    found = delta("ties", TIE, density=0.99, variant="released")
    assert found == close([-0.5, -0.25, -0.5, -0.5])


@pytest.mark.parametrize("density", [0.99, 1.0])
def test_the_other_variants_on_the_same_tie(density):
    options = {"density": density, "scope": "tensor"}
    untrimmed = density == 1.0
    paper = delta("ties", TIE, **options)
    assert paper[0] == 0
    plus = delta("ties", TIE, variant="mergekit", **options)
    if untrimmed:
        assert plus == close([0.5, -0.25, -0.5, -0.5])
        assert paper == close([0.0, -0.25, -0.5, -0.5])


def test_card_6_mergekit():
    """int(0.7 * 6) = 4 kept of each tensor; weights enter the vote; zero sum is positive."""
    taus = [TAU1, TAU2]
    found = delta("ties", taus, density=0.7, weights=[1, 0.5], variant="mergekit", scope="tensor")
    assert found == close([0.416667, -0.375, 0.0, 0.25, 0.375, 0.0])


def paper(experts, density, weights=None):
    """Algorithm 1, over lists of tensors per expert."""
    kept = [restated.keep_model(tensors, density) for tensors in experts]
    out = []
    for stack in zip(*kept, strict=True):
        flat = np.stack([t.reshape(-1) for t in stack])
        out.append(restated.mean_kept(restated.elect(flat), weights).reshape(stack[0].shape))
    return out


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 2.0]])
def test_the_paper_restated_over_a_model(density, weights):
    rng = np.random.default_rng(1)
    shapes = {"a": (3, 4), "b": (5,), "c": (), "d": (2, 3, 2)}
    experts = [
        [np.asarray(rng.integers(-64, 65, shape) / 64, dtype=np.float32) for shape in shapes.values()]
        for _ in range(3)
    ]
    pool = [{name: torch.from_numpy(t) for name, t in zip(shapes, e, strict=True)} for e in experts]
    base = {name: torch.zeros(shape) for name, shape in shapes.items()}
    found = merge(base, pool, "ties", density=density, weights=weights)
    for tensor, expected in zip(found.values(), paper(experts, density, weights), strict=True):
        assert np.allclose(tensor.numpy(), expected, atol=1e-6)


def test_the_model_is_ranked_as_one():
    """The small tensor loses everything when ranked with the large one, nothing alone."""
    base = {"big": torch.zeros(4), "small": torch.zeros(4)}
    expert = {"big": torch.tensor([4.0, 5, 6, 7]), "small": torch.tensor([0.1, 0.2, 0.3, 0.4])}
    model = merge(base, [expert], "ties", density=0.5)
    assert model["small"].tolist() == [0.0] * 4
    assert model["big"].tolist() == [4.0, 5.0, 6.0, 7.0]
    tensor = merge(base, [expert], "ties", density=0.5, scope="tensor")
    assert tensor["small"].tolist() == pytest.approx([0, 0, 0.3, 0.4])


def test_paper_keeps_int_of_density_times_n_and_released_one_more():
    tau = [[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]]
    assert (delta("ties", tau, density=0.5) != 0).sum() == 3
    assert (delta("ties", tau, density=0.5, variant="released") != 0).sum() == 4


def test_paper_weights_do_not_vote():
    """A heavy expert on the losing side stays out of the mean."""
    found = delta("ties", [[1.0], [2.0], [-2.5]], density=1.0, weights=[1, 1, 100])
    assert found == close([1.5])
    heavy = delta("ties", [[1.0], [2.0], [-2.5]], density=1.0, weights=[1, 1, 100], variant="mergekit")
    assert heavy == close([-2.5])


def test_untrimmed_ties_of_equal_experts_is_the_expert():
    assert delta("ties", [TAU1] * 3, density=1.0) == close(TAU1)


@pytest.mark.parametrize(("variant", "reads"), [("paper", 3), ("released", 4), ("mergekit", 3)])
def test_reads(variant, reads):
    from taskloom.merging.recipe import Recipe

    assert Recipe.of("ties", variant=variant).chain.reads == reads
    assert Recipe.of("ties", variant=variant, scope="tensor").chain.reads == reads - 2


def test_density_out_of_range():
    with pytest.raises(PlanError, match=r"ties: option 'density' is 1\.5"):
        merged("ties", density=1.5)
