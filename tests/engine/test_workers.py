"""Processes and threads share the work, change no byte, and tell what went wrong."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from taskloom.algebra import chain, cut, drop, elect, interpolate_sphere, keep, mean, scale, total
from taskloom.errors import NumericalError, OutputError
from taskloom.merging.processes import spread

from .models import run, save, save_pool

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
CHAINS = {
    "average": chain(mean(), space="weight"),
    "task arithmetic": chain(total(), scale(0.3)),
    "ties of the model": chain(keep(0.3, "model"), elect("majority"), mean("kept"), scale(1.0)),
    "ties by tensor": chain(keep(0.3, "tensor"), elect("zero"), mean("kept")),
    "dare": chain(drop(0.5, seed=3), total()),
    "breadcrumbs": chain(cut(0.1, "row"), keep(0.5, "row"), total()),
    "slerp": chain(interpolate_sphere(0.4), space="weight", experts=(2, 2)),
}


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    """Two experts of a base, for every dtype of the inputs."""
    folder = tmp_path_factory.mktemp("pools")
    kinds = [(torch.bfloat16,), (torch.float16,), (torch.float32,), (torch.bfloat16, *FP8)]
    return [save_pool(folder / str(i), count=2, dtypes=mix) for i, mix in enumerate(kinds)]


@pytest.mark.parametrize("which", range(4), ids=["bf16", "fp16", "fp32", "fp8"])
@pytest.mark.parametrize("name", CHAINS)
def test_the_bytes_are_the_same(pools, name, which):
    base, experts = pools[which]
    expected = run(base, experts, CHAINS[name], dtype=torch.bfloat16)
    for how in ({"workers": 2, "threads": 2}, {"workers": 3, "slice_bytes": 68}, {"threads": 3}):
        assert run(base, experts, CHAINS[name], dtype=torch.bfloat16, **how) == expected


def test_fp8_inputs_are_what_torch_says(tmp_path):
    every = torch.arange(256, dtype=torch.uint8)
    for kind in FP8:
        values = every.view(kind)
        finite = values[torch.isfinite(values.float())]
        back = finite.view(torch.uint8).flip(0).view(kind)
        paths = [save(tmp_path / f"{kind}{k}", {"w": w}) for k, w in enumerate((finite, back))]
        merged = run(None, paths, CHAINS["average"], dtype=torch.float32)["w"]
        wanted = (finite.float() + back.float()) / 2
        assert merged == wanted.numpy().tobytes()


def test_an_error_of_a_worker_is_the_error(tmp_path):
    broken = {"matrix": torch.full((17, 29), float("nan")), "ids": torch.arange(5)}
    good = {"matrix": torch.ones(17, 29), "ids": torch.arange(5)}
    paths = [save(tmp_path / "n1", broken), save(tmp_path / "n2", good)]
    with pytest.raises(NumericalError, match="'matrix'"):
        run(None, paths, CHAINS["average"], workers=2)


def test_a_worker_that_dies_is_noticed():
    def work(number, tick):
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    begun = time.monotonic()
    with pytest.raises(OutputError, match="ended before its work was done"):
        spread(2, work, lambda: None)
    assert time.monotonic() - begun < 20


def test_progress_and_results_come_back():
    ticks = []

    def work(number, tick):
        for _ in range(number):
            tick()
        return number * 10

    assert spread(3, work, lambda: ticks.append(1)) == [0, 10, 20]
    assert len(ticks) == 3


def test_workers_end_with_their_parent(tmp_path):
    script = (
        "import os, sys, time\n"
        "from taskloom.merging.processes import spread\n"
        "def work(number, tick):\n"
        f"    open(os.path.join({str(tmp_path)!r}, str(os.getpid())), 'w').close()\n"
        "    time.sleep(60)\n"
        "spread(2, work, lambda: None)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    try:
        pids = _wait_for(lambda: [int(path.name) for path in tmp_path.iterdir()], 2)
        parent.kill()
        parent.wait()
        _wait_for(lambda: [pid for pid in pids if not _alive(pid)], 2)
    finally:
        parent.kill()


def _wait_for(look, count):
    for _ in range(300):
        found = look()
        if len(found) == count:
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited in vain for {count}, found {found}")


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
