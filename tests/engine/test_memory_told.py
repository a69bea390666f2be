"""The memory that a plan tells is what the engine allocates."""

import pytest
import torch

from taskloom.merging import fused, once, rooms
from taskloom.merging import plan as plan_module
from taskloom.merging.engine import Engine, Options, _Counter
from taskloom.merging.plan import plan_program
from taskloom.merging.program import program_of
from taskloom.merging.recipe import Recipe
from taskloom.store.pool import open_pool

from .models import save_pool

pytest.importorskip("numba")
SHAPES = {"h.0.wide": (600, 1024), "h.1.long": (9001,), "h.1.b": (1024,)}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    base, experts = save_pool(tmp_path_factory.mktemp("pool"), shapes=SHAPES, dtypes=(torch.bfloat16,))
    return open_pool(base, experts)


def widest(plan):
    return max(plan.program.outputs, key=lambda output: output.info.numel)


def nbytes(arena):
    buffers = (arena.raw8, arena.out8, arena.values, arena.wide, arena.spare)
    return sum(buffer.nbytes for buffer in buffers)


@pytest.mark.parametrize("method", ["task_arithmetic", "dare_ties", "consensus", "pcb", "cabs", "lwptv"])
def test_buffers_of_a_thread(pool, method):
    plan = plan_program(program_of(pool, Recipe.of(method).chain))
    output = widest(plan)
    with Engine(plan, Options()) as engine:
        held = nbytes(engine._arena(output))
    told = fused.working_set(output, plan.elements)
    assert told == pytest.approx(held, rel=0.1)


@pytest.mark.parametrize(("method", "rows"), [("ties", 3), ("pcb", 6)])
def test_histograms(pool, method, rows, monkeypatch):
    plan = plan_program(program_of(pool, Recipe.of(method).chain))
    output = widest(plan)
    step = output.chain.steps[0]
    with Engine(plan, Options()) as engine:
        arena, started = engine._arena(output), step.measure.start(0, None)
        for round_ in range(2):
            counter = _Counter(step.measure, round_, started)
            for piece in engine._pieces(output):
                engine._fill(arena, output, piece)
                counter.count(arena, output, {}, piece, 0)
            found = counter._found.nbytes
            started = step.measure.start(round_ + 1, counter.result())
    assert fused._counted(output, 0) == 0
    monkeypatch.setattr(fused, "_sampled", lambda *_: False)
    told = fused._counted(output, 0)
    assert told == pytest.approx(found * 5 / 4, rel=0.01)
    assert found == rows * 4 * 8 << 16


def test_what_is_gathered(pool, monkeypatch):
    """The sample, or what lies between two numbers of it, fits into what is told."""
    plan = plan_program(program_of(pool, Recipe.of("ties").chain))
    output = widest(plan)
    held = []
    inner = once.Bracket.of
    monkeypatch.setattr(once.Bracket, "of", lambda *a: held.append(inner(*a)) or held[-1])
    outputs = [each for each in plan.program.outputs if each.chain is not None]
    with Engine(plan, Options()) as engine:
        engine.statistics(output.chain, outputs)
    total = sum(each.info.numel for each in outputs)
    told = fused.shared(output, total)
    assert told == 3 * 4 * rooms.held(total, rooms.of_model(total))
    assert 0 < held[0].gathered[:, : -once.SLACK].nbytes <= told


def test_what_is_gathered_of_a_tensor(pool, monkeypatch):
    """One room of each thread is for the sample, and then for what lies between two numbers of it."""
    plan = plan_program(program_of(pool, Recipe.of("ties", scope="tensor").chain))
    output = widest(plan)
    made = []
    inner = once.Bracket.of
    monkeypatch.setattr(once.Bracket, "of", lambda *a: made.append(inner(*a)) or made[-1])
    sink = type("Sink", (), {"write": lambda *_: None})()
    with Engine(plan, Options()) as engine:
        engine.run([output], {}, sink)
    numel = output.info.numel
    told, sample = fused._counted(output, 0), rooms.sample_size(numel, rooms.of_tensor(numel))
    assert 4 * int(made[0].filled.sum()) <= told  # nothing, where all equals an end
    assert 0 < 4 * 3 * sample <= told
    assert plan.memory >= fused.working_set(output, plan.elements)


def test_what_threads_share_is_told_once(pool):
    plan = plan_program(program_of(pool, Recipe.of("ties").chain))
    outputs = [each for each in plan.program.outputs if each.chain is not None]
    (shared,) = {group.shared for group in plan.groups if group.composition != "copy"}
    assert shared == fused.shared(outputs[0], sum(each.info.numel for each in outputs))
    one, three = (plan.explain(threads)["memory_bytes"] for threads in (1, 3))
    assert three - one == 2 * (one - shared - 500_000)


@pytest.mark.parametrize("method", ["ties", "pcb", "della", "sce", "emr"])
def test_it_does_not_grow_with_the_model(pool, method):
    chain = Recipe.of(method).chain
    output = widest(plan_program(program_of(pool, chain)))
    told = [fused.shared(output, 1 << power) for power in (24, 28, 32, 44)]
    assert told[0] == told[1] <= told[2] == told[3] <= 3 * 4 * rooms.MOST
    assert (told[0] > 0) == (method in {"ties", "pcb"})


def test_threads_and_steps_in_torch(pool):
    plan = plan_program(program_of(pool, Recipe.of("task_arithmetic").chain))
    one, four = (plan.explain(threads)["memory_bytes"] for threads in (1, 4))
    assert four - one == pytest.approx(3 * plan.memory, rel=0.2)
    plain = plan_program(program_of(pool, Recipe.of("ramplus_tl").chain))
    two, eight = (plain.explain(threads)["memory_bytes"] for threads in (2, 8))
    assert eight - two > 6 * plain.memory


def test_a_tensor_that_is_ranked_as_a_whole_is_in_memory_alone(pool):
    plan = plan_program(program_of(pool, Recipe.of("cabs_unstructured").chain))
    (group,) = [group for group in plan.groups if group.composition != "copy"]
    assert group.whole == "h.0.wide"
    assert group.matrix > 4 * 600 * 1024 * 4 > 4 * group.memory
    alone = [plan.alone(output) for output in plan.program.outputs]
    assert sum(alone) == 1


@pytest.mark.parametrize("method", ["karcher", "multislerp", "checkpoint_average", "greedy_soup"])
def test_rules_that_are_sums_take_no_more_than_sums(pool, method):
    """By inner products of tensors, or by numbers known before, they need no tensor as a whole."""
    plan = plan_program(program_of(pool, Recipe.of(method).chain))
    sums = plan_program(program_of(pool, Recipe.of("task_arithmetic").chain))
    assert plan.memory <= 1.01 * sums.memory
    made = [output for output in plan.program.outputs if output.chain is not None]
    assert all(fused.fits(output) for output in made)


def test_two_thresholds_of_a_tensor_take_two_rooms(pool):
    plans = [
        plan_program(program_of(pool, Recipe.of(method, scope="tensor").chain))
        for method in ("magnitude_pruning", "breadcrumbs")
    ]
    one, two = (max(fused._counted(widest(p), at) for at in range(2)) for p in plans)
    assert two == 2 * one > 0


def test_what_measures_in_torch_take(pool):
    """The stack that was read stays beside what the steps make of it; histograms are counted."""
    output = widest(plan_program(program_of(pool, Recipe.of("ramplus_tl").chain)))
    assert plan_module._measuring(output, 1000) == 3 * 4 * 1000
    assert plan_module._measuring(output, output.info.numel) == 0
    ranked = widest(plan_program(program_of(pool, Recipe.of("ties", scope="tensor").chain)))
    assert plan_module._measuring(ranked, 1000) == 3 * (4 * 1000 + (8 << 16))
