"""The memory that a plan tells is what the engine allocates."""

import pytest
import torch

from taskloom.merging import fused, once
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
    told -= max(fused._counted(s.measure, 3, output.info.numel, once=True) for s in output.chain.steps)
    assert told == pytest.approx(held, rel=0.1)


@pytest.mark.parametrize(("method", "rows"), [("ties", 3), ("pcb", 6)])
def test_histograms(pool, method, rows):
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
    told = fused._counted(step.measure, 3, output.info.numel, once=False)
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
    told = fused._counted(output.chain.steps[0].measure, 3, total, once=True)
    assert 0 < held[0].gathered.nbytes <= told


@pytest.mark.parametrize("method", ["ties", "pcb", "della", "sce", "emr"])
def test_it_does_not_grow_with_the_model(pool, method):
    chain = Recipe.of(method).chain
    output = widest(plan_program(program_of(pool, chain)))
    told = [fused.working_set(output, 1 << 18, total=1 << power) for power in (20, 28, 36, 44)]
    assert told[1] == told[2] == told[3]
    assert told[0] <= told[1]


def test_threads_and_steps_in_torch(pool):
    plan = plan_program(program_of(pool, Recipe.of("task_arithmetic").chain))
    one, four = (plan.explain(threads)["memory_bytes"] for threads in (1, 4))
    assert four - one == pytest.approx(3 * plan.memory, rel=0.2)
    plain = plan_program(program_of(pool, Recipe.of("ramplus_tl").chain))
    assert plain.memory > plan.memory
