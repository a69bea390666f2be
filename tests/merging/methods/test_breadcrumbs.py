"""Model Breadcrumbs: card 9."""

import pytest
import torch

from taskloom import merge

from ..fixture import BASE, TAU1, TAU2, close, delta, merged

CARD = {"remove": 0.34, "density": 0.5}


def test_card_9_rows_of_three():
    found = merged("breadcrumbs", shape=(2, 3), scale=0.4, **CARD)
    assert found == close([0.6, -0.4, 0.125, 0.1, 0.2, -0.5])


@pytest.mark.parametrize(
    ("tau", "masked"),
    [
        (TAU1, [0.0, -0.375, 0.0, 0.0, -0.125, 0.0]),
        (TAU2, [0.25, 0.0, 0.0, 0.25, 0.0, 0.0]),
    ],
)
def test_card_9_masks_of_rows(tau, masked):
    assert delta("breadcrumbs", [tau], shape=(2, 3), scale=1.0, **CARD) == close(masked)


@pytest.mark.parametrize(
    ("tau", "masked"),
    [
        (TAU1, [0.0, 0.0, 0.0625, 0.25, -0.125, 0.0]),
        (TAU2, [0.25, 0.0, -0.1875, 0.25, 0.0, 0.0]),
    ],
)
@pytest.mark.parametrize(("shape", "scope"), [((6,), "row"), ((1, 6), "row"), ((2, 3), "tensor")])
def test_card_9_one_row_of_six(tau, masked, shape, scope):
    found = delta("breadcrumbs", [tau], shape=shape, scope=scope, scale=1.0, **CARD)
    assert found == close(masked)


def test_mergekits_empty_slice_is_not_copied():
    """int(6 * 0.01) = 0 are cut there, and the whole tensor is lost; here the 5 largest stay."""
    found = delta("breadcrumbs", [TAU1], remove=0.01, density=0.9, scale=1.0)
    assert found == close(TAU1)


def test_scalars_are_untouched_by_the_masks():
    found = merge({"s": torch.tensor(1.0)}, [{"s": torch.tensor(3.0)}], "breadcrumbs", scale=0.5)
    assert found["s"] == 2.0


def test_keeping_everything_is_task_arithmetic():
    found = merged("breadcrumbs", remove=0, density=1, scale=0.3)
    assert (found == merged("task_arithmetic", scale=0.3)).all()


def test_keeping_nothing_is_the_base():
    assert merged("breadcrumbs", density=0).tolist() == BASE


def test_weights_come_after_the_masks():
    both = delta("breadcrumbs", [TAU1, TAU2], weights=[2.0, 1.0], scale=1.0, **CARD)
    alone = [delta("breadcrumbs", [tau], scale=1.0, **CARD) for tau in (TAU1, TAU2)]
    assert both == close(2 * alone[0] + alone[1])


def test_defaults_are_the_readmes():
    found = merged("breadcrumbs")
    assert (found == merged("breadcrumbs", remove=0.1, density=0.2, scale=0.4)).all()
