"""Parts of tasks: what is written, what comes back, and what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import taskloom
from taskloom.algebra import chain, total, weigh
from taskloom.algebra.parts import elect_largest
from taskloom.errors import (
    CheckpointError,
    IntegrityError,
    NumericalError,
    OutputError,
    PlanError,
    UnknownName,
)
from taskloom.merging import parts as module
from taskloom.merging.parts import merge_parts
from taskloom.merging.restore import TaskCheckpoint, restore_task
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

ROOT = Path(__file__).resolve().parents[3]
SHAPES = {"matrix": (6, 5), "cube": (3, 2, 4), "vector": (7,), "scalar": (), "empty": (0, 4)}
NAMES = ("mood", "topic", "spam/ham")
METHODS = [
    ("emr", {}),
    ("emr", {"variant": "released"}),
    ("tall_masks", {}),
    ("tall_masks", {"over": "ties", "density": 0.5}),
    ("tall_masks", {"threshold": dict(zip(NAMES, (0.2, 0.4, 1.0), strict=True))}),
]


def weights(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(s, generator=generator).to(dtype) for name, s in SHAPES.items()}
    return made | {"ids": torch.arange(5)}


def experts(dtype=torch.float32):
    return {name: weights(k + 1, dtype) for k, name in enumerate(NAMES)}


def read_all(checkpoint):
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


def same(found, wanted):
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def loader():
    """Return the stand-alone loader as it is printed in the docs."""
    text = (ROOT / "docs/parts.md").read_text(encoding="utf-8")
    (block,) = re.findall(r'^```python title="restore.py"\n(.*?)^```', text, re.S | re.M)
    assert "taskloom" not in block
    assert len([line for line in block.splitlines() if line.strip()]) <= 20
    found: dict[str, object] = {}
    exec(compile(block, "docs/parts.md", "exec"), found)
    return found["restore"]


@pytest.mark.parametrize(("method", "options"), METHODS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_every_task_comes_back(tmp_path, method, options, dtype):
    base = weights(0, dtype)
    wide = torch.promote_types(dtype, torch.float32)
    merge_parts(base, experts(dtype), method, tmp_path / "parts", dtype=wide, **options)
    for task in NAMES:
        wanted = taskloom.merge(base, experts(dtype), method, task=task, **options)
        same(read_all(TaskCheckpoint(tmp_path / "parts", MemoryCheckpoint(base), task)), wanted)
        same(loader()(str(tmp_path / "parts"), base, task), wanted)


def test_the_shared_vector_has_the_dtype_of_the_base(tmp_path):
    base = weights(0, torch.bfloat16)
    merge_parts(base, experts(torch.bfloat16), "emr", tmp_path / "parts")
    shared = load_file(tmp_path / "parts" / "shared.safetensors")
    assert {tensor.dtype for tensor in shared.values()} == {torch.bfloat16}
    found = TaskCheckpoint(tmp_path / "parts", MemoryCheckpoint(base), "mood").read("matrix")
    wanted = taskloom.merge(base, experts(torch.bfloat16), "emr", task="mood")["matrix"]
    assert torch.allclose(found.float(), wanted.float(), atol=0.05)


def test_masks_are_bits(tmp_path):
    merge_parts(weights(0), experts(), "tall_masks", tmp_path / "parts")
    table = json.loads((tmp_path / "parts" / "parts.json").read_text())
    taus = {name: expert["matrix"] - weights(0)["matrix"] for name, expert in experts().items()}
    merged = taus["mood"] + taus["topic"] + taus["spam/ham"]
    for name, tau in taus.items():
        packed = load_file(tmp_path / "parts" / table["tasks"][name]["file"])
        assert {key: tuple(mask.shape) for key, mask in packed.items()} == {
            "matrix": (4,),
            "cube": (3,),
            "vector": (1,),
            "scalar": (1,),
            "empty": (0,),
        }
        bits = np.unpackbits(packed["matrix"].numpy(), count=30).astype(bool)
        wanted = (tau.abs() > 0.4 * (merged - tau).abs()).reshape(-1)
        assert bits.tolist() == wanted.tolist()
        assert table["tasks"][name]["scale"] == 1.0


def test_scales_are_those_of_the_card(tmp_path):
    base = torch.tensor([0.5, -0.25, 0.125, 0.0, 0.25, -0.5])
    first = torch.tensor([1.0, -0.625, 0.1875, 0.25, 0.125, -0.5])
    second = torch.tensor([0.75, 0.1875, -0.0625, 0.25, 0.625, -0.5625])
    pool = {"one": {"w": first}, "two": {"w": second}}
    report = merge_parts({"w": base}, pool, "emr", tmp_path / "parts")
    assert report.scales == pytest.approx({"one": 1.75, "two": 0.862069}, abs=1e-6)


@pytest.mark.parametrize("slice_bytes", [4, 20, 44, 64])
@pytest.mark.parametrize("threads", [1, 3])
def test_slices_and_threads_change_no_byte(tmp_path, slice_bytes, threads):
    for name, given in (("whole", {}), ("cut", {"slice_bytes": slice_bytes, "threads": threads})):
        merge_parts(weights(0), experts(), "emr", tmp_path / name, **given)
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes(), path.name
    base = MemoryCheckpoint(weights(0))
    one = TaskCheckpoint(tmp_path / "cut", base, "topic")
    whole = one.read("matrix").reshape(-1)
    for start in range(0, 30, slice_bytes // 4):
        stop = min(30, start + slice_bytes // 4)
        assert torch.equal(one.read_range("matrix", start, stop), whole[start:stop])
    assert torch.equal(one.read("matrix", slice(1, 4)), one.read("matrix")[1:4])
    assert torch.equal(one.read("ids", slice(1, 4)), torch.arange(1, 4))


def test_bytes_are_counted(tmp_path):
    base = {"w": torch.zeros(100, 80)}
    pool = [{"w": torch.full((100, 80), k + 1.0)} for k in range(8)]
    report = merge_parts(base, pool, "tall_masks", tmp_path / "parts")
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "parts").iterdir()}
    assert report.bytes_shared == sizes["shared.safetensors"]
    assert report.bytes_tasks == sum(n for name, n in sizes.items() if name.startswith("task-"))
    assert (report.bytes_base, report.bytes_full) == (32_000, 256_000)
    assert 8 * 1000 <= report.bytes_tasks < 8 * 1150  # a bit per weight, and headers
    assert report.share == pytest.approx((32_000 + 32_000 + 8_000) / 256_000, rel=0.05)
    table = json.loads((tmp_path / "parts" / "parts.json").read_text())
    assert table["bytes"] == {"shared": report.bytes_shared, "full": 256_000}


def on_disk(folder, tensors):
    folder.mkdir()
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "none"}')
    return folder


def test_a_task_is_restored_to_a_directory(tmp_path):
    base = on_disk(tmp_path / "base", weights(0))
    pool = {name: on_disk(tmp_path / f"e{k}", weights(k + 1)) for k, name in enumerate(NAMES)}
    merge_parts(base, pool, "emr", tmp_path / "parts")
    report = restore_task(tmp_path / "parts", base, "topic", tmp_path / "model", slice_bytes=16)
    wanted = taskloom.merge(base, pool, "emr", task="topic")
    same(read_all(SafetensorsCheckpoint(tmp_path / "model")), wanted)
    assert (tmp_path / "model" / "config.json").is_file()
    assert report.composition == "elect_largest(paper) -> take(topic)"
    assert (
        report.digest
        == TaskCheckpoint(tmp_path / "parts", SafetensorsCheckpoint(base), "topic").digest()
    )
    with pytest.raises(OutputError, match="exists"):
        restore_task(tmp_path / "parts", base, "mood", tmp_path / "model")
    restore_task(tmp_path / "parts", base, "mood", tmp_path / "model", overwrite=True)


def test_a_restored_task_is_a_source_like_any_other(tmp_path):
    merge_parts(weights(0), experts(), "emr", tmp_path / "parts")
    base = MemoryCheckpoint(weights(0))
    sources = [TaskCheckpoint(tmp_path / "parts", base, task) for task in NAMES]
    found = taskloom.merge(base, sources, "average")
    kept = [taskloom.merge(base, experts(), "emr", task=task) for task in NAMES]
    wanted = taskloom.merge(base, kept, "average")
    assert torch.equal(found["matrix"], wanted["matrix"])


def test_progress_is_told(tmp_path):
    told = []
    merge_parts(
        weights(0), experts(), "tall_masks", tmp_path / "parts", progress=lambda *a: told.append(a)
    )
    assert told[-1] == ("parts", 5, 5)


def test_a_method_without_parts(tmp_path):
    with pytest.raises(PlanError, match=r"ties keeps no parts of tasks: .*emr, tall_masks"):
        merge_parts(weights(0), experts(), "ties", tmp_path / "parts")
    with pytest.raises(UnknownName, match="did you mean 'emr'"):
        merge_parts(weights(0), experts(), "emrr", tmp_path / "parts")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "mood"}, "the option 'task' has no place"),
        ({"variant": "code"}, "option 'variant'"),
        ({"varian": "paper"}, "did you mean 'variant'"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, message):
    with pytest.raises(PlanError, match=message):
        merge_parts(weights(0), experts(), "emr", tmp_path / "parts", **options)


def test_thresholds_that_cannot_be(tmp_path):
    with pytest.raises(PlanError, match="weights name the expert 'mod': did you mean 'mood'"):
        merge_parts(weights(0), experts(), "tall_masks", tmp_path / "p", threshold={"mod": 0.4})


def test_a_base_is_needed(tmp_path):
    with pytest.raises(PlanError, match="needs the base"):
        merge_parts(None, experts(), "emr", tmp_path / "parts")


def test_a_nan_leaves_nothing(tmp_path):
    pool = experts()
    pool["topic"]["cube"][0, 0, 0] = float("nan")
    with pytest.raises(NumericalError, match="'cube' of expert 'topic'"):
        merge_parts(weights(0), pool, "tall_masks", tmp_path / "parts")
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_stays(tmp_path):
    merge_parts(weights(0), experts(), "emr", tmp_path / "parts")
    with pytest.raises(OutputError, match="exists"):
        merge_parts(weights(0), experts(), "emr", tmp_path / "parts")
    merge_parts(weights(0), experts(), "tall_masks", tmp_path / "parts", overwrite=True)


def test_task_vectors_of_zero_give_the_base(tmp_path):
    pool = {name: weights(0) for name in NAMES}
    report = merge_parts(weights(0), pool, "emr", tmp_path / "parts")
    assert set(report.scales.values()) == {0.0}
    found = TaskCheckpoint(tmp_path / "parts", MemoryCheckpoint(weights(0)), "mood")
    same(read_all(found), weights(0))


def test_factors_that_are_no_mask_are_refused(tmp_path, monkeypatch):
    crooked = lambda **_: chain(elect_largest(None), weigh_rows())  # noqa: E731
    monkeypatch.setitem(module.MAKERS, "emr", crooked)
    with pytest.raises(PlanError, match="more than one factor"):
        merge_parts(weights(0), experts(), "emr", tmp_path / "parts")
    monkeypatch.setitem(module.MAKERS, "emr", lambda **_: chain(weigh([1.0, 1.0, 1.0]), total()))
    with pytest.raises(PlanError, match="the chain ends with 1 rows"):
        merge_parts(weights(0), experts(), "emr", tmp_path / "parts")


def weigh_rows():
    from taskloom.algebra import Step

    def apply(stack, _):
        return stack.with_values(stack.values * torch.rand(stack.values.shape).clamp(min=0.1))

    return Step("crooked", apply)


def test_another_base_is_refused(tmp_path):
    merge_parts(weights(0), experts(), "emr", tmp_path / "parts")
    with pytest.raises(IntegrityError, match="made beside another base"):
        TaskCheckpoint(tmp_path / "parts", MemoryCheckpoint(weights(9)), "mood")
    other = {**weights(0), "matrix": torch.zeros(5, 6)}
    with pytest.raises(CheckpointError, match=r"expected shape \[6, 5\], found \[5, 6\]"):
        TaskCheckpoint(tmp_path / "parts", MemoryCheckpoint(other), "mood")


def test_a_task_that_is_not_there(tmp_path):
    merge_parts(weights(0), experts(), "emr", tmp_path / "parts")
    with pytest.raises(PlanError, match="no task 'topics': did you mean 'topic'"):
        restore_task(tmp_path / "parts", weights(0), "topics", tmp_path / "model")


@pytest.mark.parametrize("text", [None, "{", "[]", '{"format": 1}', '{"format": 99}'])
def test_folders_without_parts(tmp_path, text):
    if text is not None:
        (tmp_path / "parts.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"holds no parts of tasks|expected parts of format 1"):
        TaskCheckpoint(tmp_path, MemoryCheckpoint(weights(0)), "mood")


def test_masks_of_another_size_are_refused(tmp_path):
    merge_parts(weights(0), experts(), "emr", tmp_path / "parts")
    path = tmp_path / "parts" / "task-00001.safetensors"
    masks = load_file(path)
    save_file({**masks, "matrix": masks["matrix"][:3].clone()}, path)
    with pytest.raises(CheckpointError, match="has not a bit for each of its 30 entries"):
        TaskCheckpoint(tmp_path / "parts", MemoryCheckpoint(weights(0)), "topic")


def test_the_example_of_the_docs_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/parts.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
    exec(compile(block, "docs/parts.md", "exec"), {})
    assert "for four checkpoints" in capsys.readouterr().out
    assert (tmp_path / "topic-model" / "model.safetensors").is_file()
