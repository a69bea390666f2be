"""The loop: stops at what is not finite, repeats itself, watches, feeds."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from taskloom.errors import DataError, PlanError, UnknownName
from taskloom.learn.coefficients.descend import Descent, descend
from taskloom.learn.coefficients.feed import Feed
from taskloom.learn.coefficients.layout import Layout
from taskloom.learn.coefficients.watch import Watch
from taskloom.learn.fitted import FitStopped
from taskloom.learn.probe import Examples, Probe
from taskloom.learn.problem import Problem
from taskloom.merging.api import merge
from taskloom.store.memory import MemoryCheckpoint

from ..toy import INPUTS, linear, toy
from .small import examples, net, problem


def test_a_loss_that_is_not_finite_stops_with_step_task_and_the_last_good_numbers():
    on = toy()
    broken = torch.tensor([[math.nan, 0.0]], dtype=torch.float64)
    fine = next(iter(on.batches["second"]))
    batches = {**on.batches, "second": Examples.of([fine, fine, (broken, torch.tensor([0]))])}
    with pytest.raises(
        FitStopped, match=r"toy: the loss of task 'second' is nan in step 3 of 9"
    ) as stop:
        descend(replace(on, batches=batches), Descent("cross_entropy", per="task", steps=9), name="toy")
    assert "the coefficients of step 2 are kept" in str(stop.value)
    fitted = stop.value.fitted
    assert len(fitted.trace) == 2
    good = descend(on, Descent("cross_entropy", per="task", steps=1), name="toy")
    assert fitted.options["values"] == good.options["values"]  # those of step 2, before its change
    assert fitted.said["stopped"] == "step 3: the loss of task 'second' is nan"


def test_a_start_that_is_broken_keeps_the_start():
    on = toy()
    broken = {"one": MemoryCheckpoint({"weight": torch.full((2, 2), math.inf, dtype=torch.float64)})}
    on = replace(on, experts={**on.experts, **broken})
    with pytest.raises(FitStopped, match=r"step 1 of 5.*'one' .* holds NaN or inf") as stop:
        descend(on, Descent("entropy", per="task", start=0.3, steps=5), name="toy")
    assert stop.value.fitted.options["values"] == {"one": 0.3, "two": 0.3}
    assert stop.value.fitted.trace == ()


@pytest.mark.parametrize("objective", ["entropy", "cross_entropy", "js_divergence", "pseudo_label"])
def test_two_fits_are_the_same_to_the_bit_for_any_number_of_threads(objective, tmp_path):
    on = problem(net(torch.float32), folder=tmp_path)
    how = Descent(objective, per="tensor", start=0.3, steps=3, passes=2, rate=0.05)
    first, second, third = (
        descend(on, replace(how, threads=threads), name="toy") for threads in (1, 1, 3)
    )
    assert first.options == second.options == third.options
    assert [s.loss for s in first.trace] == [s.loss for s in third.trace]


def test_the_rate_falls_as_a_cosine():
    how = Descent("cross_entropy", per="task", optimizer="sgd", rate=0.1, steps=4)
    constant = descend(toy(), how, name="toy")
    falling = descend(toy(), replace(how, schedule="cosine"), name="toy")
    for step in (1, 2):
        moved = [
            trace[step].values["mean one"] - trace[step - 1].values["mean one"]
            for trace in (constant.trace, falling.trace)
        ]
        if step == 1:
            assert moved[0] == moved[1]
        else:
            assert moved[1] < moved[0]


def test_the_gradient_is_clipped_to_a_norm():
    how = Descent("cross_entropy", per="task", optimizer="sgd", rate=1.0, steps=1, clip=0.01)
    values = descend(toy(), how, name="toy").options["values"]
    assert math.hypot(*values.values()) == pytest.approx(0.01, rel=1e-4)


def test_experts_that_are_left_out_have_no_share():
    how = Descent("cross_entropy", per="task", shape="shares", start=0.5, steps=2, skip=("one",))
    assert descend(toy(), how, name="toy").options["values"] == {"one": 0.0, "two": 1.0}


def test_progress_is_told_step_by_step():
    heard = []
    on = replace(toy(), progress=lambda label, done, total: heard.append((label, done, total)))
    descend(on, Descent("entropy", per="task", steps=2), name="toy")
    assert heard == [("fit toy", 1, 2), ("fit toy", 2, 2)]


def test_a_model_in_half_precision_is_run_as_it_is():
    model = linear().to(torch.bfloat16)
    probe = Probe.of_module(model)
    batches = {t: Examples.of([(x.bfloat16(), None)]) for t, x in INPUTS.items()}
    on = replace(toy(), probes=dict.fromkeys(INPUTS, probe), batches=batches)
    found = descend(on, Descent("entropy", per="task", start=0.3, steps=1), name="toy")
    assert found.trace[0].loss == pytest.approx(1.324313, abs=0.02)


def test_what_does_not_exist_is_refused():
    with pytest.raises(UnknownName, match="did you mean 'entropy'"):
        descend(toy(), Descent("entropie"), name="toy")
    with pytest.raises(PlanError, match="temprature"):
        descend(toy(), Descent("contrastive", {"temprature": 1.0}), name="toy")
    on = replace(toy(), validation={"first": Examples.of([(INPUTS["first"], None)])})
    with pytest.raises(DataError, match="labelled validation examples"):
        descend(on, Descent("entropy", steps=1, check_every=1), name="toy")


def test_a_feed_goes_round_and_makes_its_batches_anew():
    made = []

    def make():
        made.append(1)
        return iter([([1.0], None), ([2.0], None)])

    feed = Feed(Examples(make, 2))
    assert [feed.next()[0] for _ in range(5)] == [0, 1, 0, 1, 0]
    assert len(made) == 3


def test_a_watch_forgets_old_steps_and_needs_enough_to_judge():
    watch = Watch()
    logits = torch.tensor([[1.0, 0.0]] * 4)
    watch.see(1, "a", -logits)
    watch.see(1, "b", logits)
    assert watch.collapse() == ""  # four predictions say nothing yet
    for step in range(2, 25):
        watch.see(step, "a", logits)
    assert watch.shares(24) == {"largest class a": 1.0}
    assert watch.collapse().startswith("task 'a': all 80 predictions of the last 20 steps are class 0")
    watch.see(25, "a", -logits)
    assert watch.collapse() == ""


def leaning(fitted, checked):
    """Two classes, by the sign of x0 under one expert, the first for all under the other."""
    x = torch.tensor([[1.0, 1.0], [-1.0, 1.0]]).repeat(10, 1)
    sign, first = torch.tensor([0, 1]).repeat(10), torch.zeros(20, dtype=torch.int64)
    labels = {"sign": sign, "first": first}
    model = nn.Linear(2, 2, bias=False)
    model.load_state_dict({"weight": torch.zeros(2, 2)})
    taus = {"by sign": [[1.0, 0.0], [-1.0, 0.0]], "by one": [[0.0, 1.0], [0.0, -1.0]]}
    return Problem(
        MemoryCheckpoint({"weight": torch.zeros(2, 2)}),
        {name: MemoryCheckpoint({"weight": torch.tensor(tau)}) for name, tau in taus.items()},
        {"t": Probe.of_module(model)},
        {"t": Examples.of([(x, labels[fitted])])},
        validation={"t": Examples.of([(x, labels[checked])])},
    )


@pytest.mark.parametrize(
    ("fitted", "checked", "start", "kept", "last"),
    [
        ("first", "sign", {"by sign": 1.0, "by one": 0.0}, False, True),
        ("sign", "first", {"by sign": 0.2, "by one": 1.0}, True, False),
    ],
)
def test_collapse_is_told_of_the_table_that_is_kept(fitted, checked, start, kept, last):
    on = leaning(fitted, checked)
    for every, wanted in ((1, kept), (None, last)):
        how = Descent("cross_entropy", start=start, rate=0.2, steps=40, check_every=every)
        found = descend(on, how, name="toy")
        assert ("collapse" in found.said) == wanted
        if every:
            assert found.said["kept"] == "step 1, validation accuracy 1.0000"
            weight = merge(on.base, on.experts, found.method, **found.options)["weight"]
            ((x, _),) = on.batches["t"]
            assert (len((x @ weight.T).argmax(1).unique()) == 1) == wanted
        if every and wanted:
            said = "task 't': all 20 predictions at the coefficients that are kept are class 0 of 2"
            assert found.said["collapse"] == said


def test_a_layout_is_told_as_options():
    infos = problem(net()).base.tensors
    layout = Layout.of(("x", "y"), infos, "layer")
    assert layout.groups == ("table", "blocks.0", "blocks.1", "norm")
    assert layout.shape == (2, 4, 1)
    assert layout.options(layout.full({"x": 1.0, "y": 2.0}))["values"]["y"] == dict.fromkeys(
        layout.groups, 2.0
    )
    assert "norm.num_batches_tracked" not in layout.tensors
    assert Layout.of(("x",), infos, "task").options(torch.ones(1, 1, 1))["values"] == {"x": 1.0}


def test_examples_of_every_task_count():
    found = descend(problem(net()), Descent("cross_entropy", steps=1), name="toy")
    assert found.said["examples"] == "a 12, b 12"
    assert examples(0).count == 12
