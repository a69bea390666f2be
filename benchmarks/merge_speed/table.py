"""The table of the benchmark, from what was measured."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from cases import Case

COMMAND = "python benchmarks/merge_speed/run.py --data DIR --peer-python VENV/bin/python"
Stored = Mapping[str, Any]

_SAID = """\
Wall and CPU seconds are medians; every round runs dd, the import of torch, us and mergekit 0.1.5 one
after the other, with the page cache warm and nothing left to be written back when a run starts. The
floor is dd reading the base and the experts and writing one output. Ours has SHA-256 of every output
tensor and waiting until the output is on disk (fsync), which neither the floor nor mergekit do. "first"
is our first run on the machine: it also hashes the inputs, whose digests are kept for later runs, and
compiles the kernels if no earlier version did. Memory is the peak of anonymous memory
(Pss_Anon of the process and its children, sampled every 20 ms in a run of its own) above that of the
same merge of a model of 0.6 million weights.
"""


def render(stored: Stored, cases: Mapping[str, tuple[Case, bool]]) -> str:
    """Return the page, with a row for every case that is stored."""
    there = {name: stored[name] for name in cases if name in stored}
    limits = [row for name in there for row in _limits(name, *cases[name], there[name])]
    limits += _memory(there) + _growth(there)
    missed = sum(row[-1] == "missed" for row in limits)
    return "\n".join(
        [
            "# Speed of merges\n",
            f"`{COMMAND}`\n",
            f"{machine()}. Commits: {', '.join(sorted({each['commit'] for each in there.values()}))}.\n",
            _SAID,
            "## Measured\n",
            _lines(
                [
                    "case",
                    "runs",
                    "floor",
                    "torch",
                    "ours",
                    "first",
                    "CPU",
                    "mergekit",
                    "CPU",
                    "memory MB",
                ],
                [_measured(name, each) for name, each in there.items()],
            ),
            f"## Against the limits: {len(limits) - missed} met, {missed} missed\n",
            _lines(["case", "what", "limit", "measured", ""], limits),
        ]
    )


def machine() -> str:
    """Name the processor, how many there are, and the memory."""
    info = Path("/proc/cpuinfo").read_text()
    name = next(
        line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")
    )
    kib = int(Path("/proc/meminfo").read_text().split()[1])
    return (
        f"{info.count('processor	:')} x {name}, {kib / 2**20:.0f} GB, Linux {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def _lines(head: list[str], rows: list[list[str]]) -> str:
    table = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in table) + "\n"


def middle(found: Stored, who: str, what: str) -> float | None:
    """Return the median of a list of measurements, None if it is empty."""
    return median(each[what] for each in found[who]) if found[who] else None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value < 20 else f"{value:.0f}"


def memory_of(found: Stored) -> float:
    """Return megabytes above the empty run."""
    return float(found["memory"] - found["memory_empty"]) / 1e6


def _measured(name: str, found: Stored) -> list[str]:
    peer = len(found["peer"])
    numbers = [
        median(found["floor"]), median(found["torch"]), middle(found, "ours", "wall"),
        found["first"]["wall"], middle(found, "ours", "cpu"), middle(found, "peer", "wall"),
        middle(found, "peer", "cpu"),
    ]  # fmt: skip
    memory = f"{memory_of(found):.0f}"
    if "peer_memory" in found:
        memory += f" (mergekit {found['peer_memory'] / 1e6:.0f} in all)"
    runs = str(len(found["ours"])) + (f", {peer}" if peer else "")
    return [name, runs, *map(_number, numbers), memory]


def _row(name: str, what: str, limit: float, measured: float, unit: str = "") -> list[str]:
    verdict = "met" if measured <= limit else "missed"
    return [name, what, f"{limit:.3g}{unit}", f"{measured:.3g}{unit}", verdict]


def _limits(name: str, case: Case, against_peer: bool, found: Stored) -> list[list[str]]:
    rows = []
    wall, cpu = middle(found, "ours", "wall") or 0.0, middle(found, "ours", "cpu") or 0.0
    peer, peer_cpu = middle(found, "peer", "wall"), middle(found, "peer", "cpu")
    said = "" if peer else " (from the issue)"
    if against_peer and case.ratio is not None and (peer or case.issue):
        rows.append(_row(name, f"wall / mergekit's{said}", case.ratio, wall / (peer or case.issue or 1)))
    if against_peer and case.cpu_ratio is not None and (peer_cpu or case.issue):
        against = peer_cpu or case.issue or 1
        rows.append(_row(name, f"CPU / mergekit's{said}", case.cpu_ratio, cpu / against))
    if case.floors is not None:
        limit = case.floors * median(found["floor"])
        limit += median(found["torch"]) if case.plus_torch else 0
        plus = " + torch" if case.plus_torch else ""
        rows.append(_row(name, f"wall, {case.floors} floors{plus}", limit, wall, " s"))
    rows.append(_row(name, "memory", 400, memory_of(found), " MB"))
    return rows


def _memory(there: Stored) -> list[list[str]]:
    """Memory that is equal within 10 % at two sizes, and with 3 and 6 experts."""
    rows = []
    for name, other in [
        ("linear", "linear_1.5B"), ("task_arithmetic", "task_arithmetic_1.5B"),
        ("ties_tensor", "ties_tensor_1.5B"), ("linear", "linear_6"),
        ("task_arithmetic", "task_arithmetic_6"), ("ties_tensor", "ties_tensor_6"),
        ("ties_model", "ties_model_6"),
    ]:  # fmt: skip
        if name in there and other in there:
            one, two = there[name]["memory"], there[other]["memory"]
            apart = abs(one - two) / min(one, two) * 100
            rows.append(_row(f"{name}, {other}", "memory in all, apart by", 10, apart, " %"))
    return rows


def _growth(there: Stored) -> list[list[str]]:
    rows = []
    for name in ("linear", "task_arithmetic", "ties_tensor", "ties_model"):
        if name in there and f"{name}_6" in there:
            three, six = (middle(there[each], "ours", "wall") or 0.0 for each in (name, f"{name}_6"))
            rows.append(_row(f"{name}_6", "wall / that of 3 experts", 1.9, six / three))
    counts = {"tensors_453": 453, "tensors_3603": 3603, "many_tensors": 14403}
    if set(counts) <= set(there):
        cpu = [middle(there[name], "ours", "cpu") or 0.0 for name in counts]
        slope = (cpu[1] - cpu[0]) / (3603 - 453)
        line = cpu[0] + slope * (14403 - 453)
        rows.append(
            _row("many_tensors", "CPU / the line through 453 and 3,603 tensors", 1.1, cpu[2] / line)
        )
    return rows
