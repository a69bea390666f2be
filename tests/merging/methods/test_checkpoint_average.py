"""Checkpoint averaging: card 2."""

import numpy as np
import pytest

from taskloom.errors import PlanError

from ..fixture import BASE, TAU1, close, merged

RUN = [[b + f * t for b, t in zip(BASE, TAU1, strict=True)] for f in (0.25, 0.5, 0.75, 1.0)]


def average(**options):
    return merged("checkpoint_average", base=None, experts=RUN, **options)


def along(share):
    return close([b + share * t for b, t in zip(BASE, TAU1, strict=True)])


def test_card_2():
    expected = [0.9375, -0.578125, 0.179688, 0.21875, 0.140625, -0.5]
    assert average(over="last", last=2) == close(expected)
    expected = [0.890625, -0.542969, 0.173828, 0.195312, 0.152344, -0.5]
    assert average(over="ema", decay=0.5) == close(expected)
    assert average(over="last", last=2) == along(0.875)
    assert average(over="ema", decay=0.5) == along(0.78125)


@pytest.mark.parametrize("start", [0.0, 0.25, 0.5, 0.75, 0.99])
def test_swa_is_the_running_mean_from_its_start_on(start):
    mean = count = 0
    for each in np.array(RUN)[int(start * 4) :]:
        mean, count = (count * mean + each) / (count + 1), count + 1
    assert average(start=start) == close(mean)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_ema_step_by_step(decay):
    e = np.array(RUN[0])
    for each in np.array(RUN)[1:]:
        e = decay * e + (1 - decay) * each
    assert average(over="ema", decay=decay) == close(e)


def test_more_than_there_are():
    with pytest.raises(PlanError, match=r"last 5 snapshots .* there are 4"):
        average(over="last")


def test_one_snapshot_is_itself():
    assert merged("checkpoint_average", base=None, experts=RUN[:1]) == close(RUN[0])
