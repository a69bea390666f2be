"""Seconds and peak memory of every data-free method on the same checkpoints.

    python benchmarks/method_times.py [--layers 2] [--experts 4] [--repeat 3]
        [--only METHOD ...]

Makes a random base of transformer-shaped matrices in bfloat16 and its full fine-tunes, merges them by
each method in a process of its own, the methods in turn, and prints a table: median seconds, times
those of task arithmetic, peak memory above an empty run (the same method on a tiny model in the
same process), what ``--explain`` said, and whether the limits are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

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


def generate(folder: Path, layers: int, experts: int, width: int) -> int:
    generator = torch.Generator().manual_seed(0)
    shapes = {"up": (4 * width, width), "down": (width, 4 * width)}
    shapes |= {f"attention.{n}": (width, width) for n in "qkvo"}
    names = {f"layer.{i}.{n}.weight": s for i in range(layers) for n, s in shapes.items()}
    names |= {f"layer.{i}.{n}.bias": s[:1] for i in range(layers) for n, s in shapes.items()}
    base = {n: torch.randn(s, generator=generator) * 0.02 for n, s in names.items()}
    for number in range(experts + 1):
        target = folder / ("base" if number == 0 else f"expert-{number}")
        target.mkdir(parents=True)
        noise = 0.0 if number == 0 else 0.002
        weights = {
            n: (t + torch.randn(t.shape, generator=generator) * noise).to(torch.bfloat16)
            for n, t in base.items()
        }
        save_file(weights, target / "model.safetensors")
        (target / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return sum(t.numel() for t in base.values())


def peak() -> int:
    """Largest resident size since this program was started, in bytes (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def child(method: str, options: dict[str, object], folder: Path, experts: int) -> None:
    """One merge, timed, after one of a tiny model."""
    import taskloom
    from taskloom.merging.explain import explain

    def run(where: Path) -> tuple[float, dict[str, object]]:
        sources = [where / f"expert-{k}" for k in range(1, experts + 1)]
        begun = time.perf_counter()
        taskloom.merge_files(
            where / "base", sources, method, where / "out", overwrite=True, digests="none", **options
        )
        taken = time.perf_counter() - begun
        return taken, explain(where / "base", sources, method, **options)

    run(folder / "tiny")
    before = peak()
    seconds, told = run(folder / "full")
    measured = peak() - before
    print(
        json.dumps(
            {
                "seconds": seconds,
                "memory": measured,
                "told": told["memory_bytes"],
                "grain": max((g["grain"] for g in told["groups"]), key=GRAINS.index),
                "reads": told["reads"],
            }
        )
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
    options = parser.parse_args()
    if options.child:
        method, given, folder = options.child
        child(method, json.loads(given), Path(folder), options.experts)
        return
    cases = [
        (method, given)
        for table in (ELEMENTWISE, SPECTRAL)
        for method, variants in table.items()
        for given in variants
        if options.only is None or method in {"task_arithmetic", *options.only}
    ]
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp)
        generate(folder / "tiny", 1, options.experts, 64)
        count = generate(folder / "full", options.layers, options.experts, options.width)
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
                found.setdefault((method, said), []).append(json.loads(made))
                print(method, said, made.strip(), file=sys.stderr)
        print(
            f"{count / 1e6:.1f} million parameters in bfloat16, {options.experts} experts; "
            f"medians of {options.repeat} runs in turn\n"
            f"{os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}\n"
        )
        print(
            "| method | options | grain | reads | seconds | of task arithmetic | limit | "
            "memory above an empty run (MB) | --explain (MB) | --explain / measured |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|")
        unit = statistics.median(r["seconds"] for r in found["task_arithmetic", "{}"])
        for (method, said), runs in found.items():
            seconds = statistics.median(run["seconds"] for run in runs)
            memory = statistics.median(run["memory"] for run in runs)
            told = runs[0]["told"]
            print(
                f"| {method} | {said} | {runs[0]['grain']} | {runs[0]['reads']} | {seconds:.2f} "
                f"| {seconds / unit:.1f} | {limit(method, said, seconds / unit)} | {memory / 1e6:.0f} "
                f"| {told / 1e6:.0f} | {told / max(memory, 1):.2f} |"
            )


def limit(method: str, said: str, ratio: float) -> str:
    """Return the limit on the time, and whether it is missed."""
    if method in SPECTRAL:
        return "none"
    allowed = 4.0 if method in MODEL or '"model"' in said else 2.5
    return f"{allowed:g}" if ratio <= allowed else f"{allowed:g}, MISSED"


if __name__ == "__main__":
    main()
