"""Open malformed files, a hundred thousand of them, and count what became of each.

    python benchmarks/fuzz_headers.py [--cases 100000] [--seed 0]

The cases are those of ``tests/fuzz``: headers, damaged files, indexes, adapters and tokenizers, drawn
by hypothesis. Every case runs under a limit of memory and of time, and every file that is opened
meanwhile is noted. The script ends with 1 if any case crashed, hung, took too much memory or opened a
file outside of its folder.
"""

from __future__ import annotations

import argparse
import collections
import sys
import tempfile
import time
import traceback
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fuzz import cases


def run(kind: str, count: int, start: int, root: Path) -> collections.Counter:
    ground = cases.Ground(root / kind.replace(" ", "-"), kind)
    seen: collections.Counter = collections.Counter()
    faults: collections.Counter = collections.Counter()

    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(ground.strategy)
    def every(drawn):
        try:
            seen[ground.attempt(drawn)] += 1
        except (Exception, cases.HangError) as error:
            name = "hung" if isinstance(error, cases.HangError) else f"crashed: {type(error).__name__}"
            seen[name] += 1
            faults[name] += 1
            if faults[name] <= 3:
                print(f"--- {kind}: {drawn!r:.300}\n{traceback.format_exc(limit=-4)}", flush=True)

    with cases.bounded_memory():
        every()
    return seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    share = -(-options.cases // len(cases.KINDS))
    total: collections.Counter = collections.Counter()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as root:
        for kind in cases.KINDS:
            begun = time.perf_counter()
            # In portions: hypothesis may find that it has seen all there is, and starts afresh.
            counts: collections.Counter = collections.Counter()
            portion = 0
            while sum(counts.values()) < share:
                left = min(5_000, share - sum(counts.values()))
                counts += run(kind, left, options.seed + portion, Path(root))
                portion += 1
            total += counts
            told = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
            print(f"{kind}: {told} ({time.perf_counter() - begun:.0f} s)", flush=True)
    told = ", ".join(f"{name} {count}" for name, count in sorted(total.items()))
    print(f"all {sum(total.values())}: {told}")
    return 0 if set(total) <= {"opened", "refused"} else 1


if __name__ == "__main__":
    sys.exit(main())
