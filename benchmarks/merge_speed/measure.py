"""Running a command and measuring what it took: wall, CPU, memory of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Taken:
    """Seconds on the wall and of all processors."""

    wall: float
    cpu: float


def run(command: Sequence[str], environment: dict[str, str], log: Path) -> Taken:
    """Run to the end; the output goes to a log, which is shown if it fails."""
    with log.open("wb") as said:
        begun = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = log.read_text(errors="replace")[-3000:]
        raise SystemExit(f"{' '.join(command)}\nended with {process.returncode}:\n{tail}")
    return Taken(wall, usage.ru_utime + usage.ru_stime)


def memory(command: Sequence[str], environment: dict[str, str], log: Path) -> int:
    """Return the peak of anonymous memory of a command and its children, in bytes.

    Anonymous pages are what a process has for itself; pages of mapped files, which the system can
    take back, do not count. They are sampled (`/proc/PID/smaps_rollup`) every 20 milliseconds,
    which slows the command, so that no time is taken here.
    """
    peak = 0
    with log.open("wb") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        while process.poll() is None:
            peak = max(peak, sum(anonymous(pid) for pid in family(process.pid)))
            time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with {process.returncode}; see {log}")
    return peak


def anonymous(pid: int) -> int:
    """Return the anonymous bytes of a process, those shared with others in part; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon:"))


def family(pid: int) -> list[int]:
    """Return a process and all below it."""
    found = [pid]
    for each in found:
        for task in Path(f"/proc/{each}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
    return found


def floor(sources: Sequence[Path], out: Path) -> float:
    """Return the seconds of dd reading all sources and writing one output of the first one's size."""
    begun = time.perf_counter()
    for source in sources:
        subprocess.run(
            ["dd", f"if={source}", "of=/dev/null", "bs=4M"], check=True, stderr=subprocess.DEVNULL
        )
    subprocess.run(
        ["dd", f"if={sources[0]}", f"of={out}", "bs=4M"], check=True, stderr=subprocess.DEVNULL
    )
    taken = time.perf_counter() - begun
    out.unlink()
    return taken


def import_torch(python: str) -> float:
    """Return the seconds of a Python that imports torch and ends."""
    begun = time.perf_counter()
    subprocess.run([python, "-c", "import torch"], check=True)
    return time.perf_counter() - begun


def settle() -> None:
    """Wait until nothing is to be written back, so that one run does not pay for another."""
    os.sync()


signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
