"""The training loops on the small digits plan, next to what they are compared with.

Usage: python benchmarks/loops.py [--seeds 3] [--only ATM] [--output benchmarks/results/loops.md]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from taskloom import runs
from taskloom.runs.base import base_directory
from taskloom.runs.loops.api import loop
from taskloom.runs.loops.result import Loop
from taskloom.runs.plan import Limits, load_plan
from taskloom.store.atomic import atomic_file

SMALL = Path(runs.__file__).parent / "plans" / "small.yaml"
POOL = ["digits_parity", "digits_large", "digits_loop", "digits_mod3"]
TRAIN = {"batch_size": 32, "learning_rate": 0.0005}
LIMITS = Limits(train=400, validation=150, test=450)
#: title, method, tasks, options
RUNS = [
    ("ATM, 8 rounds of 15 steps a task", "atm", POOL, {"rounds": 8, "steps": 15}),
    ("ATM, 2 rounds of 60 steps a task", "atm", POOL, {"rounds": 2, "steps": 60}),
    (
        "ColD fusion, 8 rounds of 15 steps, digits_ten unseen",
        "cold",
        [*POOL, "digits_ten"],
        {"rounds": 8, "steps": 15, "unseen": ["digits_ten"], "probe_steps": 30},
    ),
    (
        "ForkMerge for digits_ten, 4 rounds of 30 steps a branch",
        "forkmerge",
        [*POOL, "digits_ten"],
        {"rounds": 4, "steps": 30, "targets": ["digits_ten"], "top": [0, 2, 4], "rank_steps": 30},
    ),
]


def main() -> int:
    """Run every loop with every seed, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/loops.md"))
    parser.add_argument("--only", default="", help="word of the titles of the loops to run")
    asked = parser.parse_args()
    base = str(base_directory(load_plan(SMALL)[0]))
    text = "# Training loops that merge, on the digits\n\n"
    text += (
        f"`python benchmarks/loops.py --seeds {asked.seeds}`: the base, limits and training options of "
    )
    text += "the plan `small` (a vision transformer of 64 dimensions, 400 training and 150 validation "
    text += "examples a task); mean validation score over the tasks. Gains are the loop's, paired by "
    text += "example within a seed: their mean over seeds, smallest and largest.\n"
    for title, method, tasks, options in RUNS:
        if asked.only not in title:
            continue
        begun = time.perf_counter()
        found = []
        for seed in range(asked.seeds):
            found.append(
                loop(method, tasks, base, options=options, train=TRAIN, limits=LIMITS, seed=seed)
            )
            print(title, seed, f"{time.perf_counter() - begun:.0f} s", flush=True)
        text += section(title, found)
        with atomic_file(asked.output) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return 0


def section(title: str, found: list[Loop]) -> str:
    """Return the table of one loop over the seeds."""
    means = [each.last.mean for each in found]
    n = sum(score.n for score in found[0].last.scores)
    text = f"\n## {title}\n\n| | steps | score | gain of the loop |\n| --- | ---: | ---: | --- |\n"
    text += f"| **the loop** | {found[0].steps} | {np.mean(means):.3f} | n = {n} a seed |\n"
    for place, rival in enumerate(found[0].compared):
        rows = [each.compared[place] for each in found]
        scores = [np.mean([s.value for s in row.scores]) for row in rows]
        gains = [row.gains[-1].gain for row in rows]
        alike = f"{np.mean(gains):+.3f} ({min(gains):+.3f} to {max(gains):+.3f})"
        text += f"| {rival.name}: {rival.what} | {rival.steps} | {np.mean(scores):.3f} | {alike} |\n"
    return text


if __name__ == "__main__":
    sys.exit(main())
