"""Kernels of steps with parts, scores, blocks and sums give the bits of the steps written in torch."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from taskloom.algebra import chain, elect, keep, mean, scale, total, weigh
from taskloom.algebra.beside import beside
from taskloom.algebra.compete import compete
from taskloom.algebra.exclusive import exclusive_blocks
from taskloom.algebra.fuse import fuse
from taskloom.algebra.layers import prune_layers
from taskloom.algebra.parts import consensus, elect_largest, take, tall_masks
from taskloom.algebra.rank import drop_by_rank
from taskloom.algebra.scores import exp, tanh
from taskloom.algebra.size import weigh_by_size
from taskloom.algebra.threshold import beyond
from taskloom.errors import NumericalError
from taskloom.merging import fused, rooms
from taskloom.merging.engine import Engine, Options
from taskloom.merging.plan import plan_program
from taskloom.merging.program import program_of
from taskloom.store.pool import open_pool

from .models import MemorySink, run, save, save_pool

pytest.importorskip("numba")
from taskloom.merging import blocks as kernels

LAYERS = {"a.0.w": (9001,), "a.1.w": (3, 5000), "a.2.w": (7, 3), "s": (), "empty": (0, 4)}
TIES = chain(keep(0.2, "model"), elect(), total())


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    """Tensors of several blocks; coarse ones have many equal and many zero changes."""
    folder = tmp_path_factory.mktemp("pools")
    mixes = [(torch.bfloat16,), (torch.float32,), (torch.float16, torch.bfloat16, torch.float32)]
    return [
        save_pool(folder / f"{i}{coarse}", dtypes=mix, shapes=LAYERS, coarse=coarse)
        for i, mix in enumerate(mixes)
        for coarse in (True, False)
    ]


share = st.sampled_from([0.0, 0.1, 0.4, 1.0])
one_row = st.one_of(st.just(total()), st.just(mean("kept")), st.just(mean("all", [0.5, 2.0, 1.0])))
besides = st.one_of(
    st.just(chain(total())),
    st.builds(lambda s: chain(keep(s, "model"), elect(), total()), share),
    st.just(chain(scale(0.5), elect("plus", [1.0, -2.0, 0.5]), mean("kept", [1.0, 2.0, 3.0]))),
)
thresholds = st.sampled_from([0.4, 0.0, 3.0, {"e1": 0.2, "e2": 0.6, "e3": 1.0}])
of_parts = st.one_of(
    st.builds(consensus, st.integers(0, 3)), st.builds(take, st.sampled_from([None, "e1", "e3"]))
)
blocks = st.tuples(st.integers(1, 9), st.integers(0, 400), st.sampled_from(["drop", "keep"])).map(
    lambda nml: exclusive_blocks(nml[0], nml[0] + nml[1], nml[2])
)
heads = st.one_of(
    st.builds(beyond, st.sampled_from([0.0, 0.1, 1e-5])),
    blocks,
    st.builds(weigh_by_size, st.sampled_from([0.0, 1.0, 2.0]), st.sampled_from(["model", "tensor"])),
    st.builds(prune_layers, st.sampled_from([0.34, 0.7]), st.sampled_from(["low", "high"])),
    st.just(weigh([1.0, -0.5, 0.0])),
)
ends = st.one_of(
    st.tuples(heads, one_row).map(lambda two: chain(*two)),
    st.tuples(besides, thresholds, of_parts).map(
        lambda three: chain(beside(three[0]), tall_masks(three[1]), three[2])
    ),
    st.tuples(st.sampled_from([None, "paper", "released"]), of_parts).map(
        lambda two: chain(elect_largest(two[0]), two[1])
    ),
    st.builds(
        compete,
        st.sampled_from([0.05, 0.5, 1.0]),
        st.sampled_from([0.0, 1e-4, 0.3]),
        st.none() | st.just([1.0, 2.0, 0.5]),
        st.sampled_from(["released", "vision"]),
    ).map(chain),
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    head=st.none() | heads,
    end=ends,
    which=st.integers(0, 5),
    elements=st.sampled_from([1 << 12, 5000, 1 << 18]),
    threads=st.sampled_from([1, 3]),
    space=st.sampled_from(["delta", "weight"]),
)
def test_any_chain(pools, head, end, which, elements, threads, space):
    base, experts = pools[which]
    composed = chain(*([] if head is None else [head]), end, scale(0.7), space=space)
    assert all_fit(base, experts, composed)
    plain = run(base, experts, composed, fused=False)
    how = {"slice_bytes": 4 * elements, "threads": threads}
    for name, expected in plain.items():
        assert run(base, experts, composed, **how)[name] == expected, (str(composed), name)
    assert run(base, experts, composed, fused=False, **how) == plain, str(composed)


def all_fit(base, experts, composed):
    outputs = program_of(open_pool(base, experts), composed).outputs
    return all(fused.fits(output) for output in outputs if output.info.is_float)


@pytest.mark.parametrize("kind", range(6))
def test_scores_with_a_sample(pools, kind, monkeypatch):
    """A sample leaves out what cannot be wanted; a wrong one costs a read."""
    base, experts = pools[kind]
    monkeypatch.setattr(rooms, "LEAST", 1000)
    rounds = counting(monkeypatch)
    for step in (compete(0.1), compete(0.3, 0.05, cross="vision")):
        plain = run(base, experts, chain(step), fused=False)
        for sample in (1 << 13, 64):
            monkeypatch.setattr(rooms, "SAMPLE", sample)
            assert run(base, experts, chain(step)) == plain
    assert rounds


def counting(monkeypatch):
    found, inner = [], Engine._sampled

    def sampled(self, *given):
        made = inner(self, *given)
        found.append(made)
        return made

    monkeypatch.setattr(Engine, "_sampled", sampled)
    return found


@pytest.mark.parametrize(
    "composed",
    [
        chain(beside(TIES, scale(0.5)), tall_masks(0.4), consensus(2)),
        chain(elect_largest("paper"), take("e2")),
        chain(beyond(0.1), mean("kept")),
        chain(weigh([1.0, 2.0, 3.0]), elect_largest(), consensus(1)),
    ],
)
def test_nan_goes_through_where_it_is_allowed(tmp_path, composed):
    base, experts = save_pool(tmp_path, dtypes=(torch.float32,))
    weights = load_file(experts[0] / "model.safetensors")
    weights["vector"][::7] = torch.nan
    experts = [save(tmp_path / "spoilt", weights), *experts[1:]]
    names = ["e1", "e2", "e3"]
    if any(step.measure is not None and step.measure.count == "elected" for step in composed.steps):
        for how in (True, False):
            with pytest.raises(NumericalError, match="beyond the range"):
                run_named(base, experts, names, composed, nan="allow", fused=how)
        return
    plain = run_named(base, experts, names, composed, fused=False, nan="allow")
    assert run_named(base, experts, names, composed, nan="allow") == plain


def run_named(base, experts, names, composed, **options):
    pool = open_pool(base, experts, names=names)
    program = program_of(pool, composed)
    sink = MemorySink(program)
    with Engine(plan_program(program), Options(**options)) as engine:
        known = {id(c): engine.statistics(c, o) for c, o in program.groups if c is not None}
        engine.run(program.outputs, known, sink)
    return {name: data.tobytes() for name, data in sink.data.items()}


@pytest.mark.parametrize(
    "composed",
    [
        chain(scale(0.5), beside(scale(2.0)), total()),  # rows beside rows
        chain(beside(total()), tall_masks(0.4)),  # parts are left
        chain(keep(0.5, "row"), fuse(1.0)),  # rows and blocks need not meet
        chain(drop_by_rank(0.5, 0.1), exclusive_blocks(1, 3), total()),
        chain(beside(total()), total()),
    ],
)
def test_what_the_kernels_leave_to_the_steps(pools, composed):
    base, experts = pools[0]
    assert not all_fit(base, experts, composed)


def test_functions_are_those_of_the_library_to_ten_digits():
    numbers = torch.cat([torch.linspace(-40, 40, 4001), torch.tensor([0.0, 1e-30, 1.0, -1.0, 1e300])])
    numbers = numbers.double()
    torch.testing.assert_close(tanh(numbers), torch.tanh(numbers), rtol=1e-10, atol=0)
    torch.testing.assert_close(exp(numbers[:-1]), torch.exp(numbers[:-1]), rtol=1e-11, atol=0)
    for ours, theirs in ((exp, kernels._exp), (tanh, kernels._tanh)):
        found = np.array([theirs(float(x)) for x in numbers])
        assert found.tobytes() == ours(numbers).numpy().tobytes()
