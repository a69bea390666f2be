"""Fisher merging: card 20."""

import numpy as np
import pytest
import torch

from taskloom import merge, merge_files
from taskloom.errors import CheckpointError, NumericalError, PlanError
from taskloom.store.statistic import Statistic

from ..fixture import THETA1, THETA2, close, weights

F1 = [4.0, 1.0, 0.0, 2.0, 1.0, 0.0]
F2 = [1.0, 3.0, 2.0, 2.0, 0.0, 0.0]
EXPERTS = [weights(THETA1), weights(THETA2)]


def known(values, **table):
    norm = float(np.linalg.norm(values))
    return Statistic.of("fisher", {"w": torch.tensor(values)}, **{"norm": repr(norm), **table})


def fisher(*, statistics=None, **options):
    given = [known(F1), known(F2)] if statistics is None else statistics
    return merge(None, EXPERTS, "fisher", statistics=given, **options)["w"].numpy()


def test_card_20_equal_coefficients():
    assert fisher() == close([0.95, -0.015625, -0.0625, 0.25, 0.125, -0.53125])
    assert fisher(weights=[0.5, 0.5]) == close(fisher())


def test_card_20_normalised():
    expected = [0.945866, -0.000726, -0.0625, 0.25, 0.125001, -0.532816]
    assert fisher(normalize=True) == close(expected)


def test_the_released_floor_lets_the_target_win_where_nobody_knows():
    found = fisher(variant="released")
    assert found == close([0.95, -0.015625, -0.0625, 0.25, 0.125, THETA1[5]])


def restated(variant, normalize, coefficients, floor):
    fishers = np.array([F1, F2])
    norms = np.sqrt((fishers**2).sum(1))
    used, share = fishers.copy(), np.array(coefficients, dtype=float)
    if variant == "paper":
        used = np.maximum(used, floor)
    elif variant == "released":
        used[0] = np.maximum(used[0], floor)
    else:
        used = used + floor
        norms = norms + floor
    if normalize:
        share = share / norms
    top = sum(c * f * np.array(t) for c, f, t in zip(share, used, (THETA1, THETA2), strict=True))
    return top / sum(c * f for c, f in zip(share, used, strict=True))


@pytest.mark.parametrize("variant", ["paper", "released", "mergelm"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("floor", [1e-6, 0.5])
def test_the_rule_restated(variant, normalize, floor):
    options = {"variant": variant, "normalize": normalize, "floor": floor, "weights": [0.3, 0.7]}
    assert fisher(**options) == close(restated(variant, normalize, [0.3, 0.7], floor))


def test_without_a_floor_unseen_entries_are_averaged():
    assert fisher(floor=0.0)[5] == pytest.approx((THETA1[5] + THETA2[5]) / 2)


def test_tensors_without_a_fisher_are_averaged():
    experts = [{"w": torch.tensor(t), "running_mean": torch.tensor([m])} for t, m in
               ((THETA1, 1.0), (THETA2, 4.0))]  # fmt: skip
    found = merge(None, experts, "fisher", statistics=[known(F1), known(F2)])
    assert found["running_mean"].tolist() == [2.5]
    assert found["w"].numpy() == close(fisher())


def test_a_missing_statistic_says_how_to_collect_it():
    with pytest.raises(PlanError, match=r"taskloom collect fisher --model b .* --statistic b=FILE"):
        fisher(names=["a", "b"], statistics={"a": known(F1)})


@pytest.mark.parametrize(
    ("statistics", "kind", "message"),
    [
        ([known(F1)], PlanError, "for 1 experts, and the pool has 2"),
        ({"x": known(F1)}, PlanError, "names the expert 'x'"),
        ([[known(F1), known(F1)], known(F2)], PlanError, "has 2 statistics 'fisher'"),
        ([Statistic.of("gram", {}), known(F2)], PlanError, "'gram' of the expert .* was given"),
        ([known(F1[:2]), known(F2)], CheckpointError, r"expected shape \[6\], found \[2\]"),
        ([known([-1.0] * 6), known(F2)], NumericalError, "below 0"),
        ([known([float("nan")] * 6), known(F2)], NumericalError, "'fisher' of the expert .* 6 NaN"),
        ([known(F1, model_digest="0" * 64), known(F2)], CheckpointError, "on the weights 000000000000"),
        ([Statistic.of("fisher", {"v": torch.ones(6)}), known(F2)], CheckpointError, "tensor 'v'"),
        ([Statistic.of("fisher", {}), known(F2)], CheckpointError, "unlike the first's"),
        (["nowhere.safetensors", known(F2)], CheckpointError, "expected the file of a statistic"),
        (known(F1), PlanError, "given for 1 experts"),
    ],
)
def test_bad_statistics_are_refused(statistics, kind, message):
    with pytest.raises(kind, match=message):
        fisher(statistics=statistics)


def test_a_fisher_without_its_norm_cannot_be_normalised():
    bare = Statistic.of("fisher", {"w": torch.tensor(F1)})
    fisher(statistics=[bare, known(F2)])
    with pytest.raises(CheckpointError, match="'norm'"):
        fisher(statistics=[bare, known(F2)], normalize=True)


def test_a_method_that_reads_none_refuses_statistics():
    with pytest.raises(PlanError, match="reads none"):
        merge(None, EXPERTS, "average", statistics=[known(F1), known(F2)])


def test_files_are_recorded_and_verified(tmp_path):
    from safetensors.torch import save_file

    import taskloom

    paths = {}
    for name, expert in zip("ab", EXPERTS, strict=True):
        (tmp_path / name).mkdir()
        save_file(expert, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        paths[name] = tmp_path / name
    given = {n: known(f).save(tmp_path / f"{n}.safetensors") for n, f in (("a", F1), ("b", F2))}
    report = merge_files(None, paths, "fisher", tmp_path / "out", statistics=given)
    assert report.bytes_read == 4 * 6 * 4
    assert taskloom.verify(tmp_path / "out", everything=True).recomputed == ("w",)
    known([9.0] * 6).save(given["a"])
    with pytest.raises(taskloom.TaskloomError, match="not the one that was merged"):
        taskloom.verify(tmp_path / "out")
