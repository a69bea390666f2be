"""Seconds and peak memory of every data-free method on the same checkpoints.

    python benchmarks/method_times.py [--layers 2] [--experts 4] [--repeat 3]
        [--only METHOD ...] [--paired [--threads N]] [--parameters 0.5e9 [--threads N]]

Makes a random base of transformer-shaped matrices in bfloat16 and its full fine-tunes, merges them by
each method, the methods in turn, and prints a table.

- "in process": seconds of ``merge_files`` in a process that has merged a small model (0.4 million
  parameters) by the same method before, so that packages are imported and kernels loaded; the ratio
  and its limit are of these. "processor": of all threads, user and system, in the same call.
- with ``--paired`` task arithmetic and the method take turns in one process, and the ratios are the
  medians of those of neighbours, of seconds and of processor seconds: other work on the machine slows
  both down. The last ratio is that of the calls that took least. Memory is not measured then.
- with ``--parameters`` checkpoints have about that many, and every call is the command
  ``taskloom merge`` as a user gives it, in a process of its own: its start, digests, and waiting until
  the output is on disk are in its seconds. Inputs are in the system's cache of files and their digests
  are known. Commands of task arithmetic and of a method take turns; ratios are of neighbours. Files lie
  in the folder for temporary files (``TMPDIR``) and are removed.
- "whole process": a process of its own that imports, merges once, and ends; one run.
- "measured": the peak resident size during the call, above what was resident before it (after the
  small merge), the pages of all buffers that were touched included, those of the system's cache of
  files not; ``--explain`` says what is held against it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

#: a merge by a method with options -> its seconds and processor seconds
Run = Callable[[str, dict[str, object]], tuple[float, float]]
#: method -> options; those of scope model have exact thresholds of the whole model
ELEMENTWISE = {
    "task_arithmetic": [{}],
    "average": [{}],
    "ties": [{"scope": "tensor"}, {"scope": "model"}],
    "dare_linear": [{}],
    "dare_ties": [{}],
    "breadcrumbs": [{"scope": "tensor"}],
    "breadcrumbs_ties": [{"scope": "tensor"}],
    "magnitude_pruning": [{}],
    "sce": [{}],
    "della": [{}],
    "della_linear": [{}],
    "emr": [{}],
    "tall_masks": [{}],
    "consensus": [{}],
    "consensus_ties": [{}],
    "pcb": [{}],
    "cabs": [{}],
    "metagpt": [{}],
    "lwptv": [{}],
    "model_stock": [{}],
    "ram": [{}],
}
SPECTRAL = {"tsv_merge": [{}], "iso_c": [{}], "iso_cts": [{}]}
#: whole-model measures may take longer
MODEL = {
    "consensus_ties",
    "pcb",
    "metagpt",
    "ram",
    "emr",
    "tall_masks",
    "consensus",
    "magnitude_pruning",
}


def shapes_of(layers: int, width: int) -> dict[str, tuple[int, ...]]:
    """Return the matrices and biases of layers of a transformer."""
    shapes: dict[str, tuple[int, ...]] = {"up": (4 * width, width), "down": (width, 4 * width)}
    shapes |= {f"attention.{n}": (width, width) for n in "qkvo"}
    names = {f"layer.{i}.{n}.weight": s for i in range(layers) for n, s in shapes.items()}
    return names | {f"layer.{i}.{n}.bias": s[:1] for i in range(layers) for n, s in shapes.items()}


def weights(shapes: dict[str, tuple[int, ...]], number: int) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of the base (0) or of one of its fine-tunes, one at a time."""
    import torch

    for index, (name, shape) in enumerate(shapes.items()):
        drawn = torch.randn(shape, generator=torch.Generator().manual_seed(index)) * 0.02
        if number:
            own = torch.Generator().manual_seed(number * 1_000_003 + index)
            drawn += torch.randn(shape, generator=own) * 0.002
        yield name, drawn.to(torch.bfloat16)


def generate(folder: Path, layers: int, experts: int, width: int) -> int:
    """Write a base and its fine-tunes; return how many parameters each has."""
    from taskloom.store.checkpoint import TensorInfo
    from taskloom.store.writer import write_safetensors

    shapes = shapes_of(layers, width)
    infos = {name: TensorInfo(shape, "bfloat16") for name, shape in shapes.items()}
    for number in range(experts + 1):
        target = folder / ("base" if number == 0 else f"expert-{number}")
        target.mkdir(parents=True)
        write_safetensors(target / "model.safetensors", infos, weights(shapes, number), {"format": "pt"})
        (target / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return sum(info.numel for info in infos.values())


def layers_of(parameters: float) -> tuple[int, int]:
    """Return how many layers of which width have about so many parameters."""
    widths = (2048, 1024, 768, 384, 192)
    width = next((w for w in widths if parameters >= 6 * 12 * w * w), widths[-1])
    return max(1, round(parameters / (12 * width * width))), width


def check_room(folder: Path, parameters: float, experts: int) -> None:
    """End where disk or memory do not hold the checkpoints, an output and the one that replaces it."""
    each = 2 * parameters
    disk, wanted = shutil.disk_usage(folder).free, each * (experts + 1 + 2)
    if disk < wanted:
        sys.exit(
            f"{folder}: the files take {wanted / 1e9:.1f} GB and the disk has {disk / 1e9:.1f} GB left; "
            "name another folder by TMPDIR, or fewer --parameters"
        )
    memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    status = Path("/proc/meminfo")
    if status.exists():
        memory = int(status.read_text().partition("MemAvailable:")[2].split()[0]) * 1024
    if memory < each * (experts + 1 + 1):
        sys.exit(
            f"{memory / 1e9:.1f} GB of memory are free, which does not keep inputs and output of "
            f"{each * (experts + 2) / 1e9:.1f} GB in the cache of files; take fewer --parameters"
        )


def peak() -> int:
    """Largest resident size since this program was started, in bytes (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def forget_peak() -> int:
    """Start the peak anew, and return the resident size now, in bytes (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the small merge let go of
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def alone(method: str, options: dict[str, object], folder: Path, experts: int) -> None:
    """One merge and nothing else."""
    import taskloom

    sources = [folder / "full" / f"expert-{k}" for k in range(1, experts + 1)]
    out = folder / "full" / "out"
    taskloom.merge_files(
        folder / "full" / "base", sources, method, out, overwrite=True, digests="none", **options
    )


def child(method: str, options: dict[str, object], folder: Path, experts: int) -> None:
    """One merge, timed, after one of a tiny model."""
    import taskloom
    from taskloom.merging.explain import explain

    def run(where: Path) -> tuple[float, float, dict[str, object]]:
        sources = [where / f"expert-{k}" for k in range(1, experts + 1)]
        begun, worked = time.perf_counter(), time.process_time()
        taskloom.merge_files(
            where / "base", sources, method, where / "out", overwrite=True, digests="none", **options
        )
        taken = time.perf_counter() - begun, time.process_time() - worked
        return *taken, explain(where / "base", sources, method, **options)

    run(folder / "tiny")
    before = forget_peak()
    seconds, worked, told = run(folder / "full")
    measured = peak() - before
    print(
        json.dumps(
            {
                "seconds": seconds,
                "processor": worked,
                "memory": measured,
                "told": told["memory_bytes"],
                "grain": max((g["grain"] for g in told["groups"]), key=GRAINS.index),
                "reads": told["reads"],
            }
        )
    )


def in_turn(run: Run, method: str, given: dict[str, object], repeat: int) -> list[list[float]]:
    """Run task arithmetic and a method in turn; return what each call and its neighbours took."""
    before = run("task_arithmetic", {})
    taken = []
    for _ in range(repeat):
        own = run(method, given)
        after = run("task_arithmetic", {})
        taken.append([*own, *((a + b) / 2 for a, b in zip(before, after, strict=True)), after[1]])
        before = after
    return taken


def pairs(
    method: str, options: dict[str, object], folder: Path, experts: int, repeat: int, threads: int | None
) -> None:
    """Merge in turn in this process; print what each call and its neighbours took."""
    import taskloom

    told = {} if threads is None else {"threads": threads}

    def run(where: Path, which: str, given: dict[str, object]) -> tuple[float, float]:
        sources = [where / f"expert-{k}" for k in range(1, experts + 1)]
        begun, worked = time.perf_counter(), time.process_time()
        taskloom.merge_files(
            where / "base",
            sources,
            which,
            where / "out",
            overwrite=True,
            digests="none",
            **told,
            **given,
        )
        return time.perf_counter() - begun, time.process_time() - worked

    for where in ("tiny", "full"):
        run(folder / where, "task_arithmetic", {})
        run(folder / where, method, options)
    print(json.dumps(in_turn(lambda *asked: run(folder / "full", *asked), method, options, repeat)))


def in_process(
    method: str, said: str, folder: Path, experts: int, repeat: int, threads: int | None
) -> list[list[float]]:
    """Return what `pairs` prints in a process of its own."""
    call = [sys.executable, __file__, "--experts", str(experts), "--repeat", str(repeat)]
    call += [] if threads is None else ["--threads", str(threads)]
    call += ["--pairs", method, said, str(folder)]
    made = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: list[list[float]] = json.loads(made)
    return found


def command(
    where: Path, experts: int, threads: int, method: str, given: dict[str, object]
) -> tuple[float, float]:
    """Run ``taskloom merge``; return its seconds and those of processors."""
    call = [sys.executable, "-m", "taskloom", "merge", "--base", str(where / "base")]
    for k in range(1, experts + 1):
        call += ["--expert", str(where / f"expert-{k}")]
    call += ["--method", method, "--threads", str(threads), "--force", "-o", str(where / "out")]
    for name, value in given.items():
        call += ["--set", f"{name}={json.dumps(value)}"]
    used, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ran = subprocess.run(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    taken, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if ran.returncode:
        sys.exit(f"{' '.join(call)} failed: {ran.stderr.strip()}")
    return taken, after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime


def by_command(
    method: str, said: str, folder: Path, experts: int, repeat: int, threads: int
) -> list[list[float]]:
    """Return what commands take in turn, once kernels are compiled and digests of inputs known."""
    given = json.loads(said)
    for where, which in (("tiny", method), ("full", "task_arithmetic")):
        command(folder / where, experts, threads, which, given if which == method else {})
    return in_turn(
        lambda *asked: command(folder / "full", experts, threads, *asked), method, given, repeat
    )


def compare(
    cases: list[tuple[str, dict[str, object]]], measure: Callable[[str, str], list[list[float]]]
) -> None:
    """Print a table of ratios of what ``measure`` returns for a method and its options in JSON."""
    print(
        "| method | options | seconds | processor (s) | task arithmetic (s) | its processor (s) "
        "| of its seconds | least of pairs | of its processor seconds "
        "| least of least processor seconds | limit |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for method, given in cases:
        if method == "task_arithmetic":
            continue
        said = json.dumps(given)
        rows = measure(method, said)
        middle = [statistics.median(row[at] for row in rows) for at in range(4)]
        ratios = [row[0] / row[2] for row in rows]
        wall = statistics.median(ratios)
        worked = statistics.median(row[1] / row[3] for row in rows)
        least = min(row[1] for row in rows) / min(row[4] for row in rows)
        shown = " | ".join(f"{each:.2f}" for each in middle)
        print(
            f"| {method} | {said} | {shown} | {wall:.2f} | {min(ratios):.2f} | {worked:.1f} "
            f"| {least:.1f} | {limit(method, said, wall)} |",
            flush=True,
        )


GRAINS = ["element", "row", "tensor", "matrix"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="These methods, beside task arithmetic.")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--paired", action="store_true", help="In turn, in one process each.")
    parser.add_argument("--threads", type=int, help="With --paired, --parameters: of each merge.")
    parser.add_argument("--parameters", type=float, help="About so many; whole commands, in turn.")
    parser.add_argument("--pairs", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pairs:
        method, given, folder = options.pairs
        pairs(method, json.loads(given), Path(folder), options.experts, options.repeat, options.threads)
        return
    if options.child or options.alone:
        method, given, folder = options.child or options.alone
        work = child if options.child else alone
        work(method, json.loads(given), Path(folder), options.experts)
        return
    whole_commands = options.parameters is not None
    if whole_commands:
        options.layers, options.width = layers_of(options.parameters)
        options.threads = options.threads or len(os.sched_getaffinity(0))
    cases = [
        (method, given)
        for table in (ELEMENTWISE, {} if whole_commands else SPECTRAL)
        for method, variants in table.items()
        for given in variants
        if options.only is None or method in {"task_arithmetic", *options.only}
    ]
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp)
        if whole_commands:
            os.environ["TASKLOOM_CACHE"] = str(folder / "cache")
            check_room(folder, options.parameters, options.experts)
        generate(folder / "tiny", 1, options.experts, 192)
        count = generate(folder / "full", options.layers, options.experts, options.width)
        if options.paired or whole_commands:
            what = "commands, each a process" if whole_commands else "calls in one process"
            print(
                f"{count / 1e6:.1f} million parameters in bfloat16, {options.experts} experts; medians "
                f"of {options.repeat} pairs of {what}, "
                f"threads: {options.threads or 'as many as cores'}\n"
                f"{os.cpu_count()} cores ({platform.machine()})\n",
                flush=True,
            )
            os.sync()
            measure = by_command if whole_commands else in_process
            told = folder, options.experts, options.repeat, options.threads
            compare(cases, lambda method, said: measure(method, said, *told))
            return
        found: dict[tuple[str, str], list[dict[str, float]]] = {}
        for _ in range(options.repeat):
            for method, given in cases:
                said = json.dumps(given)
                call = [sys.executable, __file__, "--experts", str(options.experts)]
                made = subprocess.run(
                    [*call, "--child", method, said, temp],
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                ).stdout
                whole = {}
                if (method, said) not in found:  # once: it is not what is held against the limit
                    begun = time.perf_counter()
                    subprocess.run([*call, "--alone", method, said, temp], check=True)
                    whole["whole"] = time.perf_counter() - begun
                found.setdefault((method, said), []).append(json.loads(made) | whole)
                print(method, said, found[method, said][-1], file=sys.stderr)
        print(
            f"{count / 1e6:.1f} million parameters in bfloat16, {options.experts} experts; "
            f"medians of {options.repeat} runs in turn\n"
            f"{os.cpu_count()} cores ({platform.machine()}), torch {version('torch')}\n"
        )
        print(
            "| method | options | grain | reads | in process (s) | processor (s) | whole process (s) "
            "| of task arithmetic | limit | measured (MB) | --explain (MB) | --explain / measured |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|---|")
        unit = statistics.median(r["seconds"] for r in found["task_arithmetic", "{}"])
        for (method, said), runs in found.items():
            middle = {
                key: statistics.median(run[key] for run in runs)
                for key in ("seconds", "processor", "memory")
            } | {"whole": runs[0]["whole"]}
            ratio, told, memory = middle["seconds"] / unit, runs[0]["told"], middle["memory"]
            print(
                f"| {method} | {said} | {runs[0]['grain']} | {runs[0]['reads']} "
                f"| {middle['seconds']:.2f} | {middle['processor']:.2f} | {middle['whole']:.2f} "
                f"| {ratio:.1f} | {limit(method, said, ratio)} | {memory / 1e6:.1f} "
                f"| {told / 1e6:.1f} | {told / max(memory, 1):.2f} |"
            )


def limit(method: str, said: str, ratio: float) -> str:
    """Return the limit on the time, and whether it is missed."""
    if method in SPECTRAL:
        return "none"
    allowed = 4.0 if method in MODEL or '"model"' in said else 2.5
    return f"{allowed:g}" if ratio <= allowed else f"{allowed:g}, MISSED"


if __name__ == "__main__":
    main()
