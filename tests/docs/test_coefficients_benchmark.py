"""benchmarks/coefficients.py: every sentence of its page is made of what was measured."""

import argparse
import sys
from pathlib import Path

import pytest

from benchmark_scripts import load_benchmark

SIZE = 1_000_000
MODEL = 4 * SIZE
STEPS = 5


@pytest.fixture(scope="module")
def bench():
    return load_benchmark("coefficients")


def measured(bench, *, models=(2.0, 2.5), last=0.0):
    """Made-up numbers for 2 and 16 experts; ``last`` is how far the last loss of "ours" is off."""
    curve = [4.0, 3.9, 3.8, 3.7, 3.6]
    found = {}
    for way, peaks in (
        (bench.OURS, models),
        (bench.LEAN, (1.5, 1.5)),
        (bench.GRAPH, (9.0, 40.0)),
        (bench.PEER, (8.0, 35.0)),
    ):
        for k, peak in zip((2, 16), peaks, strict=True):
            busy = {bench.OURS: 0.6, bench.LEAN: 1.0}.get(way, 0.4)
            losses = [*curve[:-1], curve[-1] + (last if way == bench.OURS and k == 16 else 0.0)]
            found[way, k] = [peak * MODEL, 0.75, busy, losses]
    return found


def page(bench, found, **more):
    asked = argparse.Namespace(experts=[2, 16], width=8, layers=1, steps=STEPS)
    machine = bench.Machine(2, (0.5, 1.5), more.pop("peer", "0.2.33"))
    ways = [bench.OURS, bench.LEAN, bench.GRAPH, *([bench.PEER] if machine.peer else [])]
    return bench.report(found, ways, asked, SIZE, machine)


def test_every_sentence_is_the_scripts(bench):
    text = page(bench, measured(bench))
    assert "Before the start 0.5 processes ran, before the end 1.5" in text
    assert "python benchmarks/coefficients.py --experts 2 16 --width 8 --layers 1 --steps 5" in text
    assert "medians of 4 steps" in text
    assert "FusionBench is 0.2.33." in text
    assert "## Peak memory, the loaded model included, in models" in text
    assert "| ours | 2.00 | 2.50 |" in text
    assert "ours: memory at K = 16 is 1.25 of that at K = 2" in text
    assert "(ours: met; ours, lean: met), the same loss curve to 1e-04 (ours: met" in text
    assert "the loss goes from 4.0000 to 3.6000" in text
    assert "processor seconds of the graph's: ours 1.5, ours, lean 2.5." in text
    assert "FusionBench" not in page(bench, measured(bench), peer="")


@pytest.mark.parametrize("models", [(2.0, 2.7), (3.1, 3.1)], ids=["grows", "too large"])
def test_memory_that_is_not_met_is_told(bench, models):
    assert "models (ours: not met; ours, lean: met)" in page(bench, measured(bench, models=models))


def test_the_losses_of_every_step_are_compared(bench):
    text = page(bench, measured(bench, last=3e-4))
    assert "over all 5 steps the losses differ from those of K vectors in the graph by 3.0e-04" in text
    assert "the same loss curve to 1e-04 (ours: not met; ours, lean: met)" in text


def test_a_single_step_is_refused(bench, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["coefficients.py", "--steps", "1"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "--steps is 1, and the first step is not timed: give 2 or more" in capsys.readouterr().err


def test_twenty_steps_by_default(bench):
    assert 'add_argument("--steps", type=int, default=20' in Path(bench.__file__).read_text()
