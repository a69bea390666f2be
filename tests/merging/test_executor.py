"""What is planned, checked, read and refused."""

import pytest
import torch

from taskloom.algebra import Grain, Step, chain, cut, keep, mean, scale, total, weigh
from taskloom.errors import NumericalError, PlanError
from taskloom.merging import executor
from taskloom.merging.battery import CountingCheckpoint
from taskloom.merging.executor import execute, plan_merge
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.pool import Expert, Pool


def pool(*experts, base=None):
    members = tuple(Expert(f"e{k}", MemoryCheckpoint(e)) for k, e in enumerate(experts))
    return Pool(None if base is None else MemoryCheckpoint(base), members)


def flat(*values, **more):
    return {"w": torch.tensor([float(v) for v in values]), **more}


def test_missing_base():
    with pytest.raises(PlanError, match=r"total works on task vectors and needs the base"):
        plan_merge(pool(flat(1)), chain(total()))


@pytest.mark.parametrize(
    ("limits", "said"),
    [((3, 3), "exactly 3"), ((3, None), "at least 3"), ((3, 5), "3 to 5"), ((1, 1), "exactly 1")],
)
def test_wrong_number_of_experts(limits, said):
    with pytest.raises(PlanError, match=rf"defined for {said} experts?, but the pool has 2 \(e0, e1\)"):
        plan_merge(pool(flat(1), flat(2)), chain(total(), space="weight", experts=limits))


def test_weights_are_checked_before_anything_is_read():
    counted = CountingCheckpoint(MemoryCheckpoint(flat(1, 2)))
    one = Pool(MemoryCheckpoint(flat(0, 0)), (Expert("e", counted),))
    for bad in (weigh([1.0, 2.0]), mean(weights={"f": 1.0})):
        with pytest.raises(PlanError, match=r"2 weights were given|name the expert 'f'"):
            plan_merge(one, chain(keep(0.5), bad, total()))
    assert sum(counted.bytes.values()) == 0


def test_the_plan_counts():
    base = {"a": torch.zeros(4, 3), "b": torch.zeros(5, dtype=torch.bfloat16), "n": torch.arange(2)}
    plan = plan_merge(pool(base, base, base=base), chain(keep(0.5), total()))
    assert plan.parameters == ("a", "b")
    assert plan.passthrough == ("n",)
    assert plan.order == ("a", "b", "n")
    assert plan.reads == 3
    assert plan.bytes_read == 3 * 3 * (48 + 10) + 16
    assert plan.memory == 12 * 4 * (2 + 1 + 3)


def test_weight_space_does_not_read_the_bases_parameters():
    plan = plan_merge(pool(flat(1), base=flat(9)), chain(mean(), space="weight"))
    assert plan.bytes_read == 4


@pytest.mark.parametrize(
    ("grain", "shape", "slices"),
    [
        (Grain.ELEMENT, (6, 4), 3),
        (Grain.ROW, (6, 4), 3),
        (Grain.TENSOR, (6, 4), 1),
        (Grain.ELEMENT, (24,), 3),
        (Grain.ROW, (24,), 1),
        (Grain.ELEMENT, (), 1),
        (Grain.ELEMENT, (0, 4), 1),
        (Grain.ELEMENT, (3, 20), 8),
        (Grain.ROW, (3, 20), 3),
        (Grain.ELEMENT, (5, 2, 2), 3),
    ],
)
def test_slices(monkeypatch, grain, shape, slices):
    """Eight elements at a time, or whole rows along the last axis."""
    monkeypatch.setattr(executor, "SLICE", 8)
    seen = []

    def note(stack, _):
        seen.append((stack.start, stack.values[0].numel(), stack.numel))
        return stack

    base = {"w": torch.zeros(shape)}
    plan = plan_merge(pool(base, base=base), chain(Step("note", note, grain), total()))
    merged = dict(execute(plan))["w"]
    assert len(seen) == slices
    assert [start for start, _, _ in seen] == [sum(n for _, n, _ in seen[:i]) for i in range(slices)]
    assert {n for _, _, n in seen} == {base["w"].numel()}
    assert merged.shape == shape


def test_a_barrier_sees_what_the_steps_before_it_made():
    experts = flat(9, 1, 2, 3)
    plan = plan_merge(pool(experts, base=flat(0, 0, 0, 0)), chain(cut(0.25), keep(0.25), total()))
    assert dict(execute(plan))["w"].tolist() == [0, 0, 0, 3]


def test_two_barriers():
    experts = flat(4, 1, 2, 3)
    steps = chain(keep(0.75), keep(0.5), total())
    plan = plan_merge(pool(experts, base=flat(0, 0, 0, 0)), steps)
    assert plan.reads == 5
    assert dict(execute(plan))["w"].tolist() == [4, 0, 0, 3]


def test_nothing_to_merge():
    base = {"n": torch.arange(3)}
    plan = plan_merge(pool(base, base=base), chain(keep(0.5), total()))
    assert torch.equal(dict(execute(plan))["n"], base["n"])


def test_progress_counts_tensors_over_all_reads():
    heard = []
    base = {"a": torch.zeros(2), "b": torch.zeros(2), "n": torch.arange(2)}
    plan = plan_merge(pool(base, base=base), chain(keep(0.5), total()))
    dict(execute(plan, progress=lambda *told: heard.append(told)))
    assert heard == [("merge", done, 6) for done in range(1, 7)]


def test_more_than_one_row_left():
    plan = plan_merge(pool(flat(1), flat(2), base=flat(0)), chain(scale(1)))
    with pytest.raises(PlanError, match=r"ends with 2 rows for tensor 'w'.*aggregate"):
        dict(execute(plan))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_an_output_dtype_that_is_not_floating_point(dtype):
    plan = plan_merge(pool(flat(1), base=flat(0)), chain(total()))
    with pytest.raises(PlanError, match="not a floating point dtype"):
        dict(execute(plan, dtype=dtype))


def test_a_result_too_large_for_its_dtype_is_refused():
    plan = plan_merge(pool(flat(1e5, 1), base=flat(0, 0)), chain(total()))
    with pytest.raises(
        NumericalError, match=r"1 merged values of tensor 'w' are too large for .*float16"
    ):
        dict(execute(plan, dtype=torch.float16))
    assert dict(execute(plan, dtype=torch.bfloat16))["w"].dtype == torch.bfloat16


def test_a_large_finite_sum_is_no_infinity():
    big = flat(*[3e38] * 8)
    plan = plan_merge(pool(big), chain(total(), space="weight"))
    assert torch.equal(dict(execute(plan))["w"], big["w"])


def test_float64_beyond_float32_is_finite():
    expert = {"w": torch.tensor([1e300, -1e300, 1e308, 1e308], dtype=torch.float64)}
    plan = plan_merge(pool(expert), chain(total(), space="weight"))
    assert torch.equal(dict(execute(plan))["w"], expert["w"])


def test_the_base_can_be_wider_than_the_experts():
    base = {"w": torch.tensor([1 + 2**-40], dtype=torch.float64)}
    plan = plan_merge(pool(flat(1), base=base), chain(scale(0), total()))
    assert torch.equal(dict(execute(plan))["w"], base["w"])


@pytest.mark.parametrize("slice_elements", [1, 1 << 20])
def test_nonfinite_values_are_counted_over_the_whole_tensor(monkeypatch, slice_elements):
    monkeypatch.setattr(executor, "SLICE", slice_elements)
    bad = torch.zeros(4, 2)
    bad[0, 0], bad[3, 1] = float("nan"), float("inf")
    good = {"w": torch.zeros(4, 2)}
    plan = plan_merge(pool(good, {"w": bad}, base=good), chain(keep(0.5), total()))
    said = r"tensor 'w' of expert 'e1' \(<memory>\) holds 2 NaN or infinite values"
    with pytest.raises(NumericalError, match=said):
        dict(execute(plan))


def test_integer_tensors_come_from_the_first_expert_without_a_base():
    first, second = flat(1, n=torch.tensor(7)), flat(2, n=torch.tensor(8))
    plan = plan_merge(pool(first, second), chain(mean(), space="weight"))
    assert dict(execute(plan))["n"] == 7


@pytest.mark.skipif(not hasattr(torch, "float8_e4m3fn"), reason="torch without float8")
def test_float8():
    base = {"w": torch.tensor([0.5, 1.0]).to(torch.float8_e4m3fn)}
    plan = plan_merge(pool(base, base=base), chain(total()))
    assert dict(execute(plan))["w"].dtype == torch.float8_e4m3fn
