"""What taskloom auto tries for what there is, and how members that learn are made."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

import taskloom
from taskloom.errors import PlanError
from taskloom.registry import entries
from taskloom.runs.auto.portfolio import (
    FITS,
    MERGES,
    PARTS,
    TOP,
    Wishes,
    check_methods,
    kind_of,
    portfolio,
)
from taskloom.runs.claims.suitable import suitable
from taskloom.runs.plan import Limits
from taskloom.store.pool import open_pool

LAYER = "encoder.layer.1.output.dense"


def pool_of(count, *, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def weights():
        return {"w": torch.randn(4, 4, generator=generator)}

    names = [f"e{number}" for number in range(count)]
    return open_pool(weights(), [weights() for _ in names], names=names)


def names(count, **wishes):
    pool = pool_of(count)
    return [m.name for m in portfolio(pool, pool.names, Wishes(**{"have": "labels", **wishes}))]


def adapter(folder, seed):
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir()
    tensors = {
        f"base_model.model.{LAYER}.lora_A.weight": torch.randn(2, 32, generator=generator),
        f"base_model.model.{LAYER}.lora_B.weight": torch.randn(16, 2, generator=generator),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": [LAYER]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


def test_every_name_in_the_lists_is_a_method_that_fits():
    for kind, listed in MERGES.items():
        known = {entry.name for entry in suitable("nothing", kind, parts=False)}
        assert {name for name, _ in listed} <= known
    assert {spec.method for spec in FITS} <= {entry.name for entry in entries("fit")}
    assert set(PARTS) <= {entry.name for entry in suitable("nothing", "full", parts=True)}


def test_the_order_is_the_one_that_the_page_tells():
    found = names(5)
    assert found[:7] == [
        "base", "e0", "e1", "e2", "average", "average, top", "fine-tune",
    ]  # fmt: skip
    merges = [f"{m} scale {o['scale']:g}" if o else m for m, o in MERGES["full"]]
    fits = ["fit atlas", "fit adamerging", "fit greedy_soup"]
    top = [f"{name}, top" for name in merges]
    assert found[7:] == ["fine-tune of best expert", *merges, *fits, *top]
    assert len(found) == len(set(found))


def test_what_there_is_decides():
    assert names(1) == ["base", "e0", "fine-tune", "fine-tune of best expert"]
    few = names(TOP)
    assert not [name for name in few if name.endswith(", top")]
    unlabeled = names(2, have="unlabeled")
    assert "fit adamerging" in unlabeled
    assert not {"fine-tune", "fit atlas", "fit greedy_soup"} & set(unlabeled)
    assert names(2, parts=True)[-2:] == ["tall_masks for e0", "emr for e0"]


def test_named_methods_are_tried_beside_the_single_models():
    found = names(2, methods=("slerp", "della", "evolution"))
    assert found == ["base", "e0", "e1", "average", "slerp", "della", "fit evolution"]
    check_methods(["della", "fine-tune", "evolution"])


@pytest.mark.parametrize(
    ("count", "wishes", "named"),
    [
        (1, {"methods": ("ties",)}, "ties cannot be tried on 1 experts"),
        (3, {"methods": ("slerp",)}, "slerp cannot be tried on 3 experts"),
        (2, {"methods": ("atlas",), "have": "unlabeled"}, "with inputs without labels"),
        (2, {"methods": ("lorahub",)}, r"lorahub cannot be tried on 2 experts \(full\)"),
        (2, {"methods": ("fisher",)}, "fisher cannot be tried"),
        (2, {"methods": ("emr",)}, "no parts per task"),
    ],
)
def test_a_method_that_cannot_be_tried_is_refused(count, wishes, named):
    with pytest.raises(PlanError, match=named):
        names(count, **wishes)


def test_adapters_are_searched_and_tuned_from(world, tmp_path):
    experts = {name: adapter(tmp_path / name, seed) for seed, name in enumerate(("a", "b"))}
    assert kind_of(open_pool(world.base, list(experts.values()))) == "lora"
    found = taskloom.auto(
        world.tasks["small"],
        world.base,
        experts,
        minutes=30,
        methods=["lorahub", "fine-tune", "metagpt"],
        tune={"steps": 2},
        limits=Limits(train=30, validation=24, test=30),
        output=tmp_path / "out",
    )
    assert [row.name for row in found.rows] == [
        "base", *found.ranked, "average", "fine-tune", "fine-tune of best expert", "metagpt",
        "fit lorahub",
    ]  # fmt: skip
    assert all(row.last is not None for row in found.rows), [row.why for row in found.rows]
    assert found.row("fit lorahub").said["labels"] != "not used"
    assert found.row("fine-tune").check.n == found.sizes["to check with"]
