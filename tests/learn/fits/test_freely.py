"""Any objective with any groups, any shape and any fit by gradient: what comes out is a recipe."""

import math

import pytest
import torch

from taskloom.learn.fits.adamerging import adamerging
from taskloom.learn.fits.atlas import atlas
from taskloom.learn.fits.divmerge import divmerge
from taskloom.learn.fits.self_positioning import self_positioning
from taskloom.merging.api import merge
from taskloom.registry import entries

from ..coefficients.small import net, problem

OBJECTIVES = sorted(entry.name for entry in entries("objective"))
GROUPS = ("task", "layer", "tensor", "block")
SHAPES = ("free", "clamp", "shares")
#: fit -> objectives that it takes (None: any) and shapes it offers (None: its own)
FITS = {
    adamerging: (None, SHAPES),
    self_positioning: (None, SHAPES),
    divmerge: (("js_divergence",), SHAPES),
    atlas: (None, (None,)),
}
TAKEN = [
    (fit, objective, per, shape)
    for fit, (objectives, shapes) in FITS.items()
    for objective in objectives or OBJECTIVES
    for per in GROUPS
    for shape in shapes
]


def test_every_objective_is_tried():
    assert {"contrastive", "cross_entropy", "entropy", "js_divergence", "pseudo_label"} <= {*OBJECTIVES}


@pytest.fixture(scope="module")
def on():
    return problem(net(torch.float32))


@pytest.mark.parametrize(
    ("fit", "objective", "per", "shape"),
    TAKEN,
    ids=[f"{f.__name__}-{o}-{p}-{s or 'own'}" for f, o, p, s in TAKEN],
)
def test_one_with_the_other(on, fit, objective, per, shape):
    more = {} if fit is divmerge else {"objective": objective}
    more |= {} if shape is None else {"shape": shape}
    found = fit(on, per=per, parts=2 if per == "block" else 1, steps=1, passes=1, threads=1, **more)
    assert found.said["objective"] == objective
    assert all(math.isfinite(step.loss) for step in found.trace)
    made = merge(on.base, on.experts, found.method, **found.options)
    assert all(bool(tensor.isfinite().all()) for tensor in made.values())
    if per == "task" and shape == "shares":
        assert sum(found.options["values"].values()) == pytest.approx(1.0)
    if per == "task" and shape == "clamp":
        assert all(0 <= value <= 1 for value in found.options["values"].values())


def test_trimmed_blocks_read_for_every_batch(on):
    """What changes how vectors are streamed, together: ``lean`` changes no number but by rounding."""
    options = {"per": "block", "parts": 2, "trim": 0.2, "steps": 2, "passes": 1, "threads": 1}
    plain, lean = (adamerging(on, lean=each, **options) for each in (False, True))
    assert [s.loss for s in lean.trace] == pytest.approx([s.loss for s in plain.trace], rel=1e-5)
