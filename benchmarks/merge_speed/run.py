"""Measure us and mergekit 0.1.5 in turn, and write the table.

    python benchmarks/merge_speed/run.py --data DIR --peer-python VENV/bin/python

Every round of a case times dd (the floor), the import of torch, us and the peer, one after the other;
the table has medians. What was measured with the same arguments is kept (``--store``) and not measured
again; ``--only CASE`` (repeatable) measures some, and the table is written of all there is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import measure
import table
from cases import CASES, DATA, GROWTH, Case

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
ROOT = HERE.parent.parent


def all_cases() -> dict[str, tuple[Case, bool]]:
    """Return every case by name, and whether the peer does it too."""
    found = {name: (case, True) for name, case in CASES.items()}
    for name, (like, changes) in GROWTH.items():
        found[name] = (replace(CASES[like], **changes), False)
    return found


def files(data: Path, case: Case) -> list[Path]:
    """Return the weight files that a case reads: the base and its experts."""
    names = ["base", *(f"e{k}" for k in range(1, case.experts + 1))]
    return [data / case.data / name / "model.safetensors" for name in names]


def make(data: Path, case: Case, experts: int) -> None:
    """Make the checkpoints of a case unless they are there."""
    size, _ = DATA[case.data]
    if not all(file.exists() for file in files(data, replace(case, experts=experts))):
        script = [sys.executable, str(HERE / "make.py"), str(data / case.data)]
        subprocess.run([*script, "--size", size, "--experts", str(experts)], check=True)


def ours(case: Case, data: Path, out: Path, threads: int | None) -> list[str]:
    """Return our command."""
    folder = data / case.data
    command = [str(Path(sys.executable).parent / "taskloom"), "--quiet", "merge"]
    command += ["--base", str(folder / "base"), "--method", case.method, "-o", str(out)]
    for k in range(1, case.experts + 1):
        command += ["--expert", str(folder / f"e{k}")]
    for name, value in case.options.items():
        command += ["--set", f"{name}={value}"]
    return command + (["--threads", str(threads)] if threads else [])


def peers(case: Case, data: Path, out: Path, python: str, work: Path) -> list[str]:
    """Return the peer's command, its file written."""
    folder = data / case.data
    models: list[dict[str, Any]] = [
        {"model": str(folder / f"e{k}"), "parameters": case.each} for k in range(1, case.experts + 1)
    ]
    config: dict[str, Any] = {"merge_method": case.peer, "dtype": "bfloat16"}
    if case.peer == "slerp":
        models = [{"model": model["model"]} for model in models]
        config["base_model"] = models[0]["model"]
    elif case.peer != "linear":
        config["base_model"] = str(folder / "base")
    config["models"] = models
    if case.peer_options:
        config["parameters"] = case.peer_options
    file = work / "peer.yaml"
    file.write_text(json.dumps(config))
    script = str(Path(python).parent / "mergekit-yaml")
    return [script, str(file), str(out), "--no-copy-tokenizer", "--random-seed", "1"]


class Bench:
    """One machine's measurements."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work: Path = options.work
        self.work.mkdir(parents=True, exist_ok=True)
        self.out, self.log = self.work / "out", self.work / "log.txt"
        cache = self.work / "cache"
        self.environment = os.environ | {"TASKLOOM_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
        self.environment.pop("OMP_NUM_THREADS", None)

    def _fresh(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.rmtree(self.work / "out.partial", ignore_errors=True)
        measure.settle()

    def _timed(self, command: list[str]) -> measure.Taken:
        self._fresh()
        return measure.run(command, self.environment, self.log)

    def _peak(self, command: list[str]) -> int:
        self._fresh()
        return measure.memory(command, self.environment, self.log)

    def case(self, name: str, case: Case, peer: bool) -> dict[str, Any]:
        """Measure one case."""
        options, data = self.options, self.options.data
        make(data, case, case.experts)
        mine = ours(case, data, self.out, options.threads)
        tiny = replace(case, data="tiny", options=case.options)
        make(data, tiny, DATA["tiny"][1])
        empty = ours(tiny, data, self.out, options.threads)
        first = self._timed(mine)  # compiles, hashes inputs, warms the page cache
        found: dict[str, Any] = {"first": vars(first), "floor": [], "torch": [], "ours": [], "peer": []}
        for round_ in range(max(options.repeats, options.peer_repeats if peer else 0)):
            if round_ < options.repeats:
                self._fresh()
                found["floor"].append(measure.floor(files(data, case), self.work / "dd"))
                found["torch"].append(measure.import_torch(sys.executable))
                found["ours"].append(vars(self._timed(mine)))
            if peer and round_ < options.peer_repeats:
                theirs = peers(case, data, self.out, options.peer_python, self.work)
                found["peer"].append(vars(self._timed(theirs)))
            self._say(name, found)
        found["memory"] = self._peak(mine)
        found["memory_empty"] = self._peak(empty)
        if peer and options.peer_repeats and options.peer_memory:
            found["peer_memory"] = self._peak(
                peers(case, data, self.out, options.peer_python, self.work)
            )
        self._fresh()
        return found

    @staticmethod
    def _say(name: str, found: dict[str, Any]) -> None:
        said = {
            "floor": median(found["floor"]),
            "torch": median(found["torch"]),
            "ours": median(each["wall"] for each in found["ours"]),
        }
        if found["peer"]:
            said["peer"] = median(each["wall"] for each in found["peer"])
        print(name, *(f"{key} {value:.2f} s" for key, value in said.items()), flush=True)


def commit() -> str:
    """Return the commit that is measured, with a mark if files differ from it."""
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude", "*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return said.stdout.strip()


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of the checkpoints, made if need be"
    )
    parser.add_argument("--work", type=Path, help="folder for outputs; else DATA/work")
    parser.add_argument("--peer-python", help="Python of a venv that has mergekit 0.1.5")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--peer-repeats", type=int, help="of the peer, whose runs take minutes; else REPEATS"
    )
    parser.add_argument(
        "--peer-memory", action="store_true", help="one more run of the peer for its memory"
    )
    parser.add_argument("--threads", type=int, help="of ours; else one per processor")
    parser.add_argument("--only", action="append", choices=list(all_cases()), help="repeat for more")
    parser.add_argument("--smoke", action="store_true", help="every case with a tiny model")
    parser.add_argument("--fresh", action="store_true", help="measure again what is in the store")
    parser.add_argument("--store", type=Path, default=RESULTS / "merge_speed.json")
    parser.add_argument("--table", type=Path, default=RESULTS / "merge_speed.md")
    options = parser.parse_args()
    options.data = options.data.resolve()
    options.work = (options.work or options.data / "work").resolve()
    if options.peer_repeats is None:
        options.peer_repeats = options.repeats if options.peer_python else 0
    if options.peer_repeats and not options.peer_python:
        parser.error("--peer-repeats needs --peer-python")
    return options


def main() -> None:
    """Measure what is missing and write the table."""
    options = arguments()
    bench = Bench(options)
    stored: dict[str, Any] = json.loads(options.store.read_text()) if options.store.exists() else {}
    for name, (case, peer) in all_cases().items():
        if options.only and name not in options.only:
            continue
        case = replace(case, data="tiny") if options.smoke else case
        key = {
            "case": json.loads(json.dumps(vars(case))),
            "repeats": options.repeats,
            "peer_repeats": options.peer_repeats if peer else 0,
            "threads": options.threads,
        }
        if not options.fresh and stored.get(name, {}).get("key") == key:
            print(name, "is measured")
        else:
            found = bench.case(name, case, peer)
            stored[name] = {"key": key, "commit": commit(), **found}
            options.store.parent.mkdir(parents=True, exist_ok=True)
            options.store.write_text(json.dumps(stored, indent=1))
        options.table.write_text(table.render(stored, all_cases()))
    print(f"wrote {options.table}")


if __name__ == "__main__":
    main()
