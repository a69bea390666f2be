"""Kill a merge with SIGKILL at random moments, and see that it always ends with the same bytes.

    python benchmarks/merge_speed/kill_loop.py --data DIR --times 50

Every time: start, kill at a random moment, check that nothing looks finished, start the same command
again, and hold every file it made against an undisturbed run (``taskloom.json`` but for what it cost).
Shards that the journal had when it was killed must not be made again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: of taskloom.json: what is not the same for two runs
COST = ("seconds", "peak_memory_bytes", "resumed_shards")


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file; of the record without its costs."""
    found = {}
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        if path.name == "taskloom.json":
            table = json.loads(data)
            data = json.dumps({k: v for k, v in table.items() if k not in COST}).encode()
        found[path.name] = hashlib.sha256(data).hexdigest()
    return found


def finished_shards(partial: Path) -> int:
    """Return how many shards the journal of an interrupted merge has."""
    journal = partial / "journal.json"
    return len(json.loads(journal.read_text())["shards"]) if journal.exists() else 0


def main() -> None:
    """Run the loop; end with 1 at the first difference."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of base, e1, e2, made if need be"
    )
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--shard", default="4MB")
    parser.add_argument("--method", default="ties")
    parser.add_argument("--workers", default="1")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = options.data.resolve()
    make = [sys.executable, str(HERE / "make.py"), str(data), "--size", "many3603", "--experts", "2"]
    subprocess.run(make, check=True)
    out = data / "killed"
    partial = out.with_name("killed.partial")
    command = [str(Path(sys.executable).parent / "taskloom"), "--quiet", "merge"]
    command += ["--base", str(data / "base"), "--method", options.method, "--workers", options.workers]
    command += ["--expert", str(data / "e1"), "--expert", str(data / "e2")]
    command += ["--max-shard-size", options.shard, "-o", str(out)]
    environment = os.environ | {"TASKLOOM_CACHE": str(data / "cache")}

    def clear() -> None:
        for each in (out, partial):
            shutil.rmtree(each, ignore_errors=True)

    def whole() -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)

    clear()
    whole()  # warms caches, so that the second one says how long it takes
    clear()
    begun = time.perf_counter()
    whole()
    seconds = time.perf_counter() - begun
    expected = digests(out)
    draw = random.Random(options.seed)
    killed, kept = 0, []
    while killed < options.times:
        clear()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        time.sleep(draw.uniform(0, seconds))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            continue  # it was faster
        killed += 1
        done = finished_shards(partial)
        kept.append(done)
        if out.exists() and digests(out) != expected:
            sys.exit(f"kill {killed}: {out} looks finished and is not")
        if not out.exists():
            whole()
            again = json.loads((out / "taskloom.json").read_text())["resumed_shards"]
            if again != done:
                sys.exit(f"kill {killed}: {done} shards were whole, and {again} were taken over")
        if (found := digests(out)) != expected:
            odd = [name for name in expected | found if expected.get(name) != found.get(name)]
            sys.exit(f"kill {killed}: the bytes of {', '.join(odd)} are not those of an undisturbed run")
        if partial.exists():
            sys.exit(f"kill {killed}: {partial} is left")
        print(f"kill {killed}: {done} shards kept, the same bytes", flush=True)
    clear()
    shards = len([name for name in expected if name.endswith(".safetensors")])
    print(
        f"{killed} kills in runs of {seconds:.1f} s: always the same bytes; of {shards} shards "
        f"{min(kept)} to {max(kept)} were whole when it was killed ({sum(map(bool, kept))} times any)"
    )


if __name__ == "__main__":
    main()
