"""Exclusive parts: what is written, what comes back, how far it is from the expert, what it takes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import taskloom
from taskloom.errors import CheckpointError, IntegrityError, NumericalError, PlanError
from taskloom.merging.parts import merge_parts
from taskloom.merging.restore import TaskCheckpoint, open_task, restore_task
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

ROOT = Path(__file__).resolve().parents[3]
SHAPES = {
    "matrix": (40, 24),
    "kernel": (16, 3, 2, 2),
    "vector": (7,),
    "scalar": (),
    "empty": (0, 4),
    "tiny": (2, 2),
}
NAMES = ("mood", "topic", "spam/ham")
FORMS = ("low_rank", "sparse")


def weights(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(s, generator=generator) for name, s in SHAPES.items()}
    return {name: tensor.to(dtype) for name, tensor in made.items()} | {"ids": torch.arange(5)}


def experts(dtype=torch.float32, size=0.1):
    """Experts near the base, or low-rank changes of it."""
    found = {}
    for k, name in enumerate(NAMES):
        generator = torch.Generator().manual_seed(k + 1)
        found[name] = {
            n: (t.double() + size * torch.randn(t.shape, generator=generator)).to(dtype)
            if t.is_floating_point()
            else t
            for n, t in weights(0).items()
        }
    return found


def read_all(checkpoint):
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


def loader():
    """Return the stand-alone loader as it is printed in the docs."""
    text = (ROOT / "docs/parts.md").read_text(encoding="utf-8")
    (block,) = re.findall(r'^```python title="restore_exclusive.py"\n(.*?)^```', text, re.S | re.M)
    assert "taskloom" not in block
    assert len([line for line in block.splitlines() if line.strip()]) <= 20
    found: dict[str, object] = {}
    exec(compile(block, "docs/parts.md", "exec"), found)
    return found["restore"]


def near(found, wanted, eps):
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        gap = (found[name].double() - tensor.double()).abs()
        assert bool((gap <= eps * (1 + tensor.double().abs())).all()), name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_task_comes_back(tmp_path, form, share, dtype):
    base, pool = weights(0, dtype), experts(dtype)
    merge_parts(base, pool, "twin_merging", tmp_path / "p", form=form, share=share)
    for task in NAMES:
        wanted = taskloom.merge(base, pool, "twin_merging", task=task, form=form, share=share)
        found = read_all(open_task(tmp_path / "p", task))
        near(found, wanted, 1e-6)
        near(loader()(str(tmp_path / "p"), task), found, 1e-6)


def test_with_everything_kept_the_expert_comes_back_bit_for_bit(tmp_path):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for form in FORMS:
            pool = experts(dtype)
            folder = tmp_path / f"{dtype}-{form}"
            report = merge_parts(weights(0, dtype), pool, "twin_merging", folder, share=1.0, form=form)
            assert set(report.errors.values()) == {0.0}
            for task in NAMES:
                found = read_all(open_task(folder, task))
                assert all(torch.equal(found[n], t) for n, t in pool[task].items())


def test_factors_of_full_rank_are_exact(tmp_path):
    """LoRA experts: what is exclusive has at most the sum of their ranks, 6."""
    generator = torch.Generator().manual_seed(0)
    base = {"w": torch.randn(90, 70, generator=generator)}
    pool = {}
    for name in NAMES:
        left, right = torch.randn(90, 2, generator=generator), torch.randn(2, 70, generator=generator)
        pool[name] = {"w": base["w"] + 0.1 * left @ right}
    report = merge_parts(base, pool, "twin_merging", tmp_path / "full", share=6.5 / 70)
    assert max(report.errors.values()) < 1e-6
    own = load_file(tmp_path / "full" / "task-00000.safetensors")
    assert {key: tuple(t.shape) for key, t in own.items()} == {"w#left": (90, 6), "w#right": (6, 70)}
    for task in NAMES:
        gap = open_task(tmp_path / "full", task).read("w") - pool[task]["w"]
        assert float(gap.abs().max()) < 2e-6
    less = merge_parts(base, pool, "twin_merging", tmp_path / "less", share=4.5 / 70)
    assert min(less.errors.values()) > 0.01


@pytest.mark.parametrize("form", FORMS)
def test_errors_are_those_of_the_restored_models(tmp_path, form):
    pool = experts()
    skip = ["kernel", "tiny"]
    report = merge_parts(weights(0), pool, "twin_merging", tmp_path / "p", form=form, skip=skip)
    shared = load_file(tmp_path / "p" / "model.safetensors")["matrix"].double()
    for task in NAMES:
        own = pool[task]["matrix"].double()
        left_out = own - open_task(tmp_path / "p", task).read("matrix").double()
        error = float(left_out.norm() / (own - shared).norm())
        assert report.errors[task] == pytest.approx(error, rel=1e-5)
        if form == "low_rank":
            values = np.linalg.svd((own - shared).numpy(), compute_uv=False)
            assert error == pytest.approx(np.sqrt((values[2:] ** 2).sum() / (values**2).sum()), rel=1e-5)


def test_errors_fall_as_more_is_kept(tmp_path):
    for form in FORMS:
        found = [
            max(
                merge_parts(
                    weights(0), experts(), "twin_merging", tmp_path / f"{form}{s}", form=form, share=s
                ).errors.values()
            )
            for s in (0.0, 0.1, 0.2, 0.4)
        ]
        assert found[0] == 1.0
        assert found == sorted(found, reverse=True)
        assert len(set(found)) == 4


def test_rounding_of_the_shared_model_is_made_good(tmp_path):
    """In bfloat16 the shared model is rounded, and what is exclusive is told from what was written."""
    base, pool = weights(0, torch.bfloat16), experts(torch.bfloat16)
    merge_parts(base, pool, "twin_merging", tmp_path / "p", form="sparse", share=0.999)
    for task in NAMES:
        found = open_task(tmp_path / "p", task).read("matrix")
        differ = int((found != pool[task]["matrix"]).sum())
        assert differ <= 0.05 * found.numel(), f"{differ} of {found.numel()}"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("slice_bytes", [4, 44, 500])
@pytest.mark.parametrize("threads", [1, 3])
def test_slices_and_threads_change_no_byte(tmp_path, form, slice_bytes, threads):
    for name, given in (("whole", {}), ("cut", {"slice_bytes": slice_bytes, "threads": threads})):
        merge_parts(weights(0), experts(), "twin_merging", tmp_path / name, form=form, **given)
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes(), path.name
    one = open_task(tmp_path / "cut", "topic")
    for name in ("matrix", "kernel", "vector"):
        whole = one.read(name).reshape(-1)
        for start in range(0, len(whole), 13):
            stop = min(len(whole), start + 13)
            assert torch.equal(one.read_range(name, start, stop), whole[start:stop])
    assert torch.equal(one.read("matrix", slice(3, 9)), one.read("matrix")[3:9])
    assert torch.equal(one.read("ids", slice(1, 4)), torch.arange(1, 4))


def test_bytes_are_counted_and_the_base_is_not_needed(tmp_path):
    generator = torch.Generator().manual_seed(0)
    base = {"w": torch.zeros(200, 200)}
    pool = [{"w": torch.randn(200, 200, generator=generator)} for _ in range(8)]
    report = merge_parts(base, pool, "twin_merging", tmp_path / "p", share=0.1)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "p").iterdir()}
    assert report.bytes_shared == sizes["model.safetensors"]
    assert report.bytes_tasks == sum(n for name, n in sizes.items() if name.startswith("task-"))
    assert (report.bytes_base, report.bytes_full) == (0, 8 * 160_000)
    assert report.bytes_stored == report.bytes_shared + report.bytes_tasks
    # 20 directions of 200 + 200 numbers, eight times, and the shared model
    assert report.share == pytest.approx((8 * 20 * 400 + 40_000) / (8 * 40_000), rel=0.02)
    sparse = merge_parts(base, pool, "twin_merging", tmp_path / "s", share=0.1, form="sparse")
    # a bit for each entry, and a tenth of the numbers
    assert sparse.share == pytest.approx((8 * (5_000 + 16_000) + 160_000) / 1_280_000, rel=0.02)
    table = json.loads((tmp_path / "p" / "parts.json").read_text())
    assert table["bytes"] == {"shared": report.bytes_shared, "full": 1_280_000}
    assert table["tasks"]["expert-1"]["error"] == report.errors["expert-1"]


def on_disk(folder, tensors):
    folder.mkdir()
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "none"}')
    return folder


@pytest.fixture
def pool_on_disk(tmp_path):
    base = on_disk(tmp_path / "base", weights(0))
    pool = {n: on_disk(tmp_path / f"e{k}", w) for k, (n, w) in enumerate(experts().items())}
    return base, pool


def test_a_task_is_restored_without_the_base(tmp_path, pool_on_disk):
    base, pool = pool_on_disk
    merge_parts(base, pool, "twin_merging", tmp_path / "p")
    for name, origin in (("without", None), ("with", base)):
        report = restore_task(tmp_path / "p", origin, "topic", tmp_path / name, slice_bytes=48)
        wanted = read_all(open_task(tmp_path / "p", "topic"))
        found = read_all(SafetensorsCheckpoint(tmp_path / name))
        assert list(found) == list(wanted)
        assert all(torch.equal(found[n], wanted[n]) for n in wanted)
        assert report.composition == "total -> scale(0.3) -> exclusive(low_rank, 0.1) -> take(topic)"
        names = {path.name for path in (tmp_path / name).iterdir()}
        assert names == {"config.json", "model.safetensors", "taskloom.json"}
    with pytest.raises(IntegrityError, match="made beside another base"):
        restore_task(tmp_path / "p", pool["mood"], "topic", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_the_folder_itself_is_the_shared_model(tmp_path, pool_on_disk):
    base, pool = pool_on_disk
    merge_parts(base, pool, "twin_merging", tmp_path / "p")
    found = load_file(tmp_path / "p" / "model.safetensors")
    wanted = taskloom.merge(base, pool, "task_arithmetic")
    assert all(torch.equal(found[n], t) for n, t in wanted.items())
    assert (tmp_path / "p" / "config.json").is_file()


def test_a_restored_task_is_a_source_like_any_other(tmp_path):
    merge_parts(weights(0), experts(), "twin_merging", tmp_path / "p", share=1.0)
    sources = [open_task(tmp_path / "p", task) for task in NAMES]
    found = taskloom.merge(MemoryCheckpoint(weights(0)), sources, "average")
    wanted = taskloom.merge(weights(0), experts(), "average")
    assert torch.equal(found["matrix"], wanted["matrix"])


def test_masks_need_their_base(tmp_path):
    merge_parts(weights(0), experts(), "emr", tmp_path / "p")
    with pytest.raises(PlanError, match="nothing without the base"):
        open_task(tmp_path / "p", "mood")
    assert isinstance(open_task(tmp_path / "p", "mood", weights(0)), TaskCheckpoint)
    merge_parts(weights(0), experts(), "twin_merging", tmp_path / "t")
    with pytest.raises(CheckpointError, match="holds exclusive parts"):
        TaskCheckpoint(tmp_path / "t", MemoryCheckpoint(weights(0)), "mood")


def test_a_task_that_is_not_there(tmp_path):
    merge_parts(weights(0), experts(), "twin_merging", tmp_path / "p")
    with pytest.raises(PlanError, match="no task 'topics': did you mean 'topic'"):
        open_task(tmp_path / "p", "topics")


@pytest.mark.parametrize("form", FORMS)
def test_a_nan_leaves_nothing(tmp_path, form):
    for tensor in ("matrix", "vector"):
        pool = experts()
        pool["topic"][tensor].view(-1)[2] = float("nan")
        with pytest.raises(NumericalError, match=f"'{tensor}' of expert 'topic'"):
            merge_parts(weights(0), pool, "twin_merging", tmp_path / "p", form=form)
        assert not list(tmp_path.iterdir())


def test_what_a_narrow_dtype_cannot_hold_is_refused(tmp_path):
    base, pool = {"v": torch.zeros(2)}, {n: {"v": torch.full((2,), 1e6)} for n in NAMES[:2]}
    pool["topic"]["v"] = torch.full((2,), -1e6)
    with pytest.raises(NumericalError, match=r"2 merged values of tensor 'v' are too large"):
        merge_parts(base, pool, "twin_merging", tmp_path / "p", dtype="float16")
    assert not list(tmp_path.iterdir())


def test_a_name_that_would_be_mistaken(tmp_path):
    pool = {n: {"a#left": torch.ones(2)} for n in NAMES}
    with pytest.raises(PlanError, match="has a '#' in its name"):
        merge_parts({"a#left": torch.zeros(2)}, pool, "twin_merging", tmp_path / "p")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("matrix#left"),
        lambda t: t.update({"matrix#right": torch.zeros(2, 23)}),
        lambda t: t.update({"matrix#left": torch.zeros(40, 3)}),
        lambda t: t.update({"vector": torch.zeros(8)}),
        lambda t: t.update({"other": torch.zeros(1)}),
        lambda t: t.update({"vector#left": torch.zeros(7, 1), "vector#right": torch.zeros(1, 1)}),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path, change):
    merge_parts(weights(0), experts(), "twin_merging", tmp_path / "p")
    path = tmp_path / "p" / "task-00001.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"is no part of a tensor of model\.safetensors"):
        open_task(tmp_path / "p", "topic")


def test_task_vectors_of_zero_give_the_base(tmp_path):
    pool = {name: weights(0) for name in NAMES}
    for form in FORMS:
        report = merge_parts(weights(0), pool, "twin_merging", tmp_path / form, form=form)
        assert set(report.errors.values()) == {0.0}
        found = read_all(open_task(tmp_path / form, "mood"))
        assert all(torch.equal(found[n], t) for n, t in weights(0).items())


def test_progress_is_told(tmp_path):
    told = []
    merge_parts(
        weights(0), experts(), "twin_merging", tmp_path / "p", progress=lambda *a: told.append(a)
    )
    assert told[-1] == ("parts", 7, 7)
