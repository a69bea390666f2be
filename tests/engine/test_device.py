"""Slices streamed through a device: the bytes of the plain steps on ``cpu``, one unit on a GPU.

No GPU is needed but for the last class. A device that is pretended (`.elsewhere`) shows that nothing
mixes devices or reads what is still under way.
"""

import json

import pytest
import torch

import taskloom
from taskloom import registry
from taskloom.algebra import chain, drop, elect, interpolate_sphere, keep, mean, scale, total, weigh
from taskloom.algebra.core import Grain, Step
from taskloom.algebra.rank import drop_by_rank
from taskloom.cli.main import invoke
from taskloom.errors import NumericalError, PlanError
from taskloom.merging import device
from taskloom.merging.battery import make_statistics
from taskloom.merging.engine import Engine, Options
from taskloom.merging.plan import plan_program
from taskloom.merging.program import program_of
from taskloom.merging.recipe import Recipe
from taskloom.store.pool import open_pool
from taskloom.store.safetensors_dir import SafetensorsCheckpoint

from . import elsewhere
from .models import MemorySink, make_weights, run, save, save_pool

METHODS = [entry.name for entry in registry.entries("merge") if "adapters" not in entry.needs]
KINDS = [torch.bfloat16, torch.float32]
CHAINS = {
    "task arithmetic": chain(total(), scale(0.3)),
    "average": chain(mean(weights=[1.0, 2.0, 0.5]), space="weight"),
    "ties": chain(keep(0.3, "model"), elect("majority"), mean("kept")),
    "ties by tensor": chain(keep(0.3, "tensor"), elect("zero"), mean("kept")),
    "rows": chain(keep(0.4, "row"), weigh([1.0, -1.0, 0.5]), total()),
    "dare": chain(drop(0.5, seed=3), total()),
    "della": chain(drop_by_rank(0.5, 0.1, seed=4), total()),
}
#: chains of single operations entry by entry
ENTRYWISE = ["task arithmetic", "average", "ties", "ties by tensor", "rows", "dare"]
SLERP = chain(interpolate_sphere(0.4), space="weight", experts=(2, 2))


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    """Three experts of a base for each dtype."""
    folder = tmp_path_factory.mktemp("pools")
    mixes = {"bf16": KINDS[:1], "fp32": KINDS[1:], "fp64": [torch.float32, torch.float64]}
    mixes["fp8"] = [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
    return {name: save_pool(folder / name, dtypes=mix) for name, mix in mixes.items()}


def chosen(pool, method):
    """A method's chain, as many experts as it takes, and statistics for them."""
    base, paths = pool
    composed = Recipe.of(method, seed=5).chain
    low, high = composed.experts
    paths = paths[: max(low, 3 if high is None else min(3, high))]
    weights = {path.name: dict(_read(path)) for path in paths}
    return base, paths, composed, make_statistics(composed, weights)


def _read(path):
    checkpoint = SafetensorsCheckpoint(path)
    return ((name, checkpoint.read(name)) for name in checkpoint.tensors)


def forced(*args, **options):
    """What the device path makes on the CPU."""
    return run(*args, device_path=True, **options)


class TestForcedOnTheCpu:
    @pytest.mark.parametrize(("kind", "size"), [("bf16", 4 * 64), ("fp32", None)])
    @pytest.mark.parametrize("method", METHODS)
    def test_every_method_gives_the_bytes_of_the_plain_steps(self, pools, method, kind, size):
        base, paths, composed, statistics = chosen(pools[kind], method)
        how = {"slice_bytes": size, "statistics": statistics}
        assert forced(base, paths, composed, **how) == run(base, paths, composed, fused=False, **how)

    @pytest.mark.parametrize("kind", ["bf16", "fp32", "fp64", "fp8"])
    @pytest.mark.parametrize("name", CHAINS)
    def test_any_slices_threads_and_dtypes(self, pools, name, kind):
        base, paths = pools[kind]
        for dtype in (torch.float16, torch.float8_e5m2):
            plain = run(base, paths, CHAINS[name], dtype=dtype, fused=False)
            for how in ({"slice_bytes": 100}, {"slice_bytes": 400, "threads": 3}):
                assert forced(base, paths, CHAINS[name], dtype=dtype, **how) == plain, how

    def test_the_kernels_give_them_too(self, pools):
        pytest.importorskip("numba")
        base, paths = pools["bf16"]
        for composed in CHAINS.values():
            assert forced(base, paths, composed, slice_bytes=100) == run(base, paths, composed)

    def test_what_is_not_a_file(self):
        base = make_weights(0)
        experts = [make_weights(k, base=base) for k in (1, 2)]
        composed = CHAINS["task arithmetic"]
        assert forced(base, experts, composed) == run(base, experts, composed, fused=False)

    def test_digests_and_progress(self, pools):
        base, paths = pools["bf16"]
        plan = plan_program(program_of(open_pool(base, paths), CHAINS["ties"]), slice_bytes=64)
        found = []
        for path in (False, True):
            told = []
            options = Options(device_path=path, progress=lambda *t, told=told: told.append(t[1:]))
            with Engine(plan, options) as engine:
                (group,) = (g for g in plan.program.groups if g[0] is not None)
                known = {id(group[0]): engine.statistics(*group)}
                engine.run(plan.program.outputs, known, MemorySink(plan.program))
            found.append((engine.digests.outputs, told[-1]))
        assert found[0] == found[1]
        assert len(found[0][0]) == len(plan.program.outputs)


class TestFaults:
    @pytest.fixture
    def broken(self, tmp_path):
        """A base, a good expert, and one with two numbers that are none."""
        base = make_weights(0)
        good, bad = make_weights(1, base=base), make_weights(2, base=base)
        bad["matrix"][3, 4], bad["matrix"][16, 28] = float("nan"), float("inf")
        named = {"base": base, "good": good, "bad": bad}
        return [save(tmp_path / name, weights) for name, weights in named.items()]

    @pytest.mark.parametrize("composed", [*CHAINS.values(), SLERP], ids=[*CHAINS, "slerp"])
    @pytest.mark.parametrize("size", [None, 4 * 40])
    def test_nan_is_refused_as_by_the_plain_steps(self, broken, composed, size):
        base, good, bad = broken
        experts = [good, bad] if composed is SLERP else [good, bad, good.parent / "again"]
        if composed is not SLERP:
            save(good.parent / "again", make_weights(3))
        with pytest.raises(NumericalError) as plain:
            run(base, experts, composed, fused=False, slice_bytes=size)
        with pytest.raises(NumericalError) as streamed:
            forced(base, experts, composed, slice_bytes=size)
        assert str(streamed.value) == str(plain.value)
        assert "'matrix' of expert 'bad'" in str(plain.value)
        assert "holds 2 NaN" in str(plain.value)

    def test_nan_of_the_base(self, broken):
        _, good, bad = broken
        with pytest.raises(NumericalError, match=r"'matrix' of the base .* 2 NaN"):
            forced(bad, [good], CHAINS["task arithmetic"])

    def test_nan_is_let_through_by_name(self, broken):
        base, good, bad = broken
        composed = CHAINS["task arithmetic"]
        for dtype in (torch.bfloat16, torch.float32, torch.float8_e4m3fn):
            plain = run(base, [good, bad], composed, nan="allow", fused=False, dtype=dtype)
            assert forced(base, [good, bad], composed, nan="allow", dtype=dtype) == plain

    def test_too_large_for_the_output(self, tmp_path):
        paths = [save(tmp_path / n, {"w": torch.tensor([1.0, 7e4, -8e4])}) for n in "ab"]
        with pytest.raises(NumericalError, match=r"2 merged values of tensor 'w' are too large for"):
            forced(None, paths, chain(mean(), space="weight"), dtype=torch.float16)

    def test_a_step_that_stumbles_over_nan_is_not_the_cause(self, broken):
        def stumble(stack, _):
            if not bool(torch.isfinite(stack.values).all()):
                raise ValueError("stumbled")
            return stack

        base, good, bad = broken
        composed = chain(Step("stumble", stumble), total())
        with pytest.raises(NumericalError, match="'matrix' of expert 'bad'"):
            forced(base, [good, bad], composed)

    def test_a_step_that_fails_fails(self, broken):
        def fail(stack, _):
            raise ZeroDivisionError("mine")

        base, good, _ = broken
        with pytest.raises(ZeroDivisionError, match="mine"):
            forced(base, [good], chain(Step("fail", fail), total()))

    def test_a_device_that_is_full(self, broken):
        def full(stack, _):
            raise torch.OutOfMemoryError("CUDA out of memory")

        base, good, _ = broken
        with pytest.raises(PlanError, match=r"its memory is full at tensor .*--slice-size"):
            forced(base, [good], chain(Step("full", full), total()))


class TestMemory:
    def test_no_buffer_is_larger_than_a_slice(self, pools, monkeypatch):
        asked = []
        get = device._Buffers.get

        def spy(self, key, size):
            asked.append(size)
            return get(self, key, size)

        monkeypatch.setattr(device._Buffers, "get", spy)
        base, paths = pools["fp32"]
        for name in ENTRYWISE:
            asked.clear()
            forced(base, paths, CHAINS[name], slice_bytes=4 * 32)
            # a vector is one row
            assert max(asked) == 4 * (311 if name == "rows" else 32), name

    def test_a_matrix_is_forgotten(self, pools):
        made = []

        class Watched(device.Lane):
            def __init__(self, *args):
                super().__init__(*args)
                made.append(self)

        base, paths = pools["fp32"]
        whole = chain(Step("whole", lambda stack, _: stack, Grain.MATRIX), total())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("taskloom.merging.engine.Lane", Watched)
            forced(base, paths, whole, slice_bytes=4 * 8)
        (lane,) = made
        held = [b.numel() for slot in lane._slots for b in slot.host._held.values()]
        assert held
        assert max(held) <= 8 * 8

    def test_what_is_said_beforehand_holds(self, pools, monkeypatch):
        """The buffers of both sides are within what explain says."""
        base, paths = pools["bf16"]
        for composed in CHAINS.values():
            plan = plan_program(program_of(open_pool(base, paths), composed), slice_bytes=4 * 50)
            said = device.memory(plan, 1)
            lane = None

            class Watched(device.Lane):
                def __init__(self, *args):
                    nonlocal lane
                    super().__init__(*args)
                    lane = self

            monkeypatch.setattr("taskloom.merging.engine.Lane", Watched)
            forced(base, paths, composed, slice_bytes=4 * 50)
            for side, most in (("host", said.host), ("device", said.device)):
                held = [getattr(slot, side)._held for slot in lane._slots]
                # beside the slices a slot holds one byte per source and one for the result
                marks = 2 * (len(paths) + 2)
                assert sum(b.numel() for each in held for b in each.values()) <= most + marks
            assert said.device > said.host
            assert device.memory(plan, 3).device == 3 * said.device


class TestPretended:
    """Nothing mixes devices, and nothing is read before it is there."""

    @pytest.mark.parametrize("method", METHODS)
    def test_every_method_stays_on_the_device(self, pools, method):
        base, paths, composed, statistics = chosen(pools["fp32"], method)
        plain = run(base, paths, composed, statistics=statistics, fused=False, slice_bytes=4 * 64)
        with elsewhere.Elsewhere("xpu:0") as there:
            found = run(base, paths, composed, statistics=statistics, device="xpu:0", slice_bytes=4 * 64)
        assert found == plain
        assert there.copied["there"] > there.copied["back"] > 0

    @pytest.mark.parametrize("kind", ["bf16", "fp64"])
    @pytest.mark.parametrize("name", CHAINS)
    def test_streams_are_waited_for(self, pools, name, kind, monkeypatch):
        for each in ("wait_stream", "record_event", "synchronize"):
            assert hasattr(torch.cuda.Stream, each)
        monkeypatch.setattr(torch.cuda, "Stream", elsewhere.Stream)
        monkeypatch.setattr(torch.cuda, "stream", elsewhere.stream)
        base, paths = pools[kind]
        plain = run(base, paths, CHAINS[name], fused=False, slice_bytes=100)
        with elsewhere.Elsewhere("cuda:0"):
            assert run(base, paths, CHAINS[name], device="cuda:0", slice_bytes=100) == plain

    def test_what_is_written_is_what_was_waited_for(self, pools, monkeypatch):
        """Copies that bring zeros give zeros: nothing comes by another way."""

        def nothing(self, into, source):
            with torch.inference_mode():
                into.zero_()

        monkeypatch.setattr(torch.cuda, "Stream", elsewhere.Stream)
        monkeypatch.setattr(torch.cuda, "stream", elsewhere.stream)
        monkeypatch.setattr(elsewhere.Event, "copy", nothing)
        base, paths = pools["bf16"]
        with elsewhere.Elsewhere("cuda:0"):
            found = run(base, paths, CHAINS["average"], device="cuda:0", slice_bytes=100)
        assert not any(any(data) for name, data in found.items() if name != "ids")

    def test_a_step_that_mixes_devices_is_found(self, pools):
        base, paths = pools["fp32"]

        def mixed(stack, _):
            return stack.with_values(stack.values * torch.ones(3, 1))

        with elsewhere.Elsewhere("xpu:0"), pytest.raises(RuntimeError, match="and on the CPU"):
            run(base, paths, chain(Step("mixed", mixed), total()), device="xpu:0", slice_bytes=16)


class TestAsked:
    @pytest.mark.parametrize("name", ["cpu", "cpu:0"])
    def test_the_cpu_is_the_default(self, name):
        assert device.check_device(name, workers=4, ray="local") == "cpu"
        assert device.suited("cpu", None) is None

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
    @pytest.mark.parametrize("name", ["cuda", "cuda:3"])
    def test_no_gpu(self, name):
        with pytest.raises(PlanError, match=rf"device '{name}': .* finds no GPU.*Leave --device out"):
            device.usable(name)

    @pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "cuda:-1"])
    def test_unknown(self, name):
        with pytest.raises(PlanError, match=r"torch knows no such device.*'cpu'"):
            device.usable(name)

    def test_a_device_without_numbers(self):
        with pytest.raises(PlanError, match="device 'meta' cannot be used"):
            device.usable("meta")

    def test_an_index_too_high(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        with pytest.raises(PlanError, match=r"'cuda:7': there are 2 GPUs.*cuda:0 to cuda:1"):
            device.usable("cuda:7")

    @pytest.mark.parametrize("more", [{"workers": 2}, {"ray": "auto"}])
    def test_other_processes(self, monkeypatch, more):
        monkeypatch.setattr(device, "usable", lambda name: name)
        with pytest.raises(PlanError, match="a device is driven by one process"):
            device.check_device("cuda", **more)

    def test_slices_suit_the_device(self):
        assert device.suited("cuda", None) == 4 * device.SLICE
        assert device.suited("cuda", 400) == device.suited("cpu", 400) == 400

    def test_a_merge_to_disk_and_back(self, pools, tmp_path, monkeypatch):
        """The record names the device and its slices, and verify goes the same way."""
        base, paths = pools["bf16"]
        asked = []
        for place in ("api", "verify"):
            name = {"api": "check_device", "verify": "usable"}[place]
            monkeypatch.setattr(
                f"taskloom.merging.{place}.{name}", lambda d, **_: asked.append(d) or str(d)
            )
        taskloom.merge_files(base, paths, "ties", tmp_path / "cpu", threads=1)
        with elsewhere.Elsewhere("xpu:0"):
            how = {"device": "xpu:0", "threads": 1, "slice_bytes": 400}
            report = taskloom.merge_files(base, paths, "ties", tmp_path / "far", **how)
            record = json.loads((tmp_path / "far" / "taskloom.json").read_text())
            assert record["device"] == {"type": "xpu", "slice_elements": 100}
            found = taskloom.verify(tmp_path / "far", everything=True, threads=1)
        assert asked == ["cpu", "xpu:0", "xpu"]
        assert len(found.recomputed) == 7
        plain = json.loads((tmp_path / "cpu" / "taskloom.json").read_text())
        assert plain["outputs"]["digest"] == report.digest
        assert "device" not in plain

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_nothing_is_made(self, pools, tmp_path):
        base, paths = pools["bf16"]
        with pytest.raises(PlanError, match="finds no GPU"):
            taskloom.merge_files(base, paths, "ties", tmp_path / "out", device="cuda")
        with pytest.raises(PlanError, match="finds no GPU"):
            taskloom.explain(base, paths, "ties", tmp_path / "out", device="cuda")
        assert not list(tmp_path.iterdir())

    def test_explain_says_what_is_taken(self, pools, monkeypatch):
        base, paths = pools["bf16"]
        usual = taskloom.explain(base, paths, "ties", threads=2)
        assert usual["device"] == "cpu"
        assert "device_memory_bytes" not in usual
        monkeypatch.setattr("taskloom.merging.explain.check_device", lambda name: name)
        told = taskloom.explain(base, paths, "ties", threads=2, device="cuda")
        assert told["device"] == "cuda"
        # the largest tensor, 17 x 29: four sources and a result in bf16, twice, for two threads
        raw = 2 * 2 * 17 * 29 * 2 * 5
        assert told["memory_bytes"] == raw
        assert told["device_memory_bytes"] == raw + 2 * 4 * 17 * 29 * (2 * 3 + 3)


class TestCommand:
    def words(self, pool, out, *more):
        base, paths = pool
        experts = [word for path in paths for word in ("--expert", str(path))]
        named = ["merge", "--base", str(base), *experts, "--method", "ties"]
        return [*named, "-o", str(out), *more]

    def test_cpu_is_as_without(self, pools, tmp_path):
        digests = []
        for name, more in (("a", []), ("b", ["--device", "cpu"])):
            assert invoke(self.words(pools["bf16"], tmp_path / name, *more)) == 0
            record = json.loads((tmp_path / name / "taskloom.json").read_text())
            digests.append(record["outputs"]["digest"])
            assert "device" not in record
        assert digests[0] == digests[1]

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    @pytest.mark.parametrize("more", [[], ["--explain"], ["--check"], ["--workers", "2"]])
    def test_no_gpu(self, pools, tmp_path, capsys, more):
        out = tmp_path / "out"
        assert invoke(self.words(pools["bf16"], out, "--device", "cuda", *more)) == PlanError.exit_code
        assert "finds no GPU that it can use" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    def test_what_is_taken_is_told(self, pools, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(device, "usable", lambda name: name)
        words = self.words(pools["bf16"], tmp_path / "out", "--device", "cuda", "--threads", "2")
        assert invoke([*words, "--explain"]) == 0
        assert "of memory with 2 threads and 0 MB on cuda; " in capsys.readouterr().out
        assert invoke([*words, "--explain", "--workers", "2"]) == PlanError.exit_code
        assert (
            "--device cuda and --workers 2: a device is driven by one process" in capsys.readouterr().err
        )

    def test_adapters_into_an_adapter(self, pools, tmp_path, capsys):
        words = self.words(pools["bf16"], tmp_path / "out", "--as-adapter", "--device", "cpu:0")
        assert invoke(words) == 2
        assert "--device goes with merges of whole models" in capsys.readouterr().err

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_a_mergekit_file(self, pools, tmp_path, capsys):
        base, paths = pools["bf16"]
        file = tmp_path / "theirs.yaml"
        file.write_text(
            f"merge_method: linear\ndtype: bfloat16\nmodels:\n  - model: {base}\n    parameters:\n"
            f"      weight: 1\n  - model: {paths[0]}\n    parameters:\n      weight: 1\n"
        )
        for more in ([], ["--check"]):
            words = ["merge", str(file), str(tmp_path / "out"), "--device", "cuda", *more]
            assert invoke(words) == PlanError.exit_code
            assert "finds no GPU that it can use" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
class TestOnAGpu:
    @pytest.mark.parametrize("kind", ["bf16", "fp32", "fp8"])
    @pytest.mark.parametrize("name", ENTRYWISE)
    def test_one_unit_in_the_last_place(self, pools, name, kind):
        base, paths = pools[kind]
        for dtype in (torch.bfloat16, torch.float32):
            for how in ({}, {"slice_bytes": 400, "threads": 2}):
                wanted = run(base, paths, CHAINS[name], dtype=dtype, fused=False, **how)
                found = run(base, paths, CHAINS[name], dtype=dtype, device="cuda", **how)
                for tensor in wanted:
                    assert found[tensor] == wanted[tensor] or units(found, wanted, tensor, dtype) <= 1

    @pytest.mark.parametrize("method", METHODS)
    def test_every_method_is_close(self, pools, method):
        base, paths, composed, statistics = chosen(pools["fp32"], method)
        wanted = run(base, paths, composed, statistics=statistics, fused=False)
        found = run(base, paths, composed, statistics=statistics, device="cuda")
        for name, data in wanted.items():
            if name != "ids" and data:
                pair = [torch.frombuffer(bytearray(d), dtype=torch.float32) for d in (found[name], data)]
                torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-4)

    def test_a_merge_to_disk(self, pools, tmp_path):
        base, paths = pools["bf16"]
        taskloom.merge_files(base, paths, "ties", tmp_path / "cpu")
        taskloom.merge_files(base, paths, "ties", tmp_path / "gpu", device="cuda")
        record = json.loads((tmp_path / "gpu" / "taskloom.json").read_text())
        assert record["device"]["type"] == "cuda"
        taskloom.verify(tmp_path / "gpu", everything=True)


def units(found, wanted, name, dtype):
    """Largest distance in units of the last place."""
    whole = torch.int16 if dtype.itemsize == 2 else torch.int32
    pair = [torch.frombuffer(bytearray(each[name]), dtype=whole).long() for each in (found, wanted)]
    low = torch.iinfo(whole).min
    ordered = [torch.where(each < 0, low - each, each) for each in pair]
    return int((ordered[0] - ordered[1]).abs().max())
