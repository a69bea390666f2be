"""Results that nobody measured, for tests of what is made of results: drawn, of every method."""

from __future__ import annotations

import zlib

import numpy as np

from taskloom import registry
from taskloom.runs.claims.results import Lock, Results, Row, Seeded, SuiteEntry

TASKS = {"text": [f"text_{n}" for n in range(12)], "image": [f"image_{n}" for n in range(8)]}
PAIRS = ("arcee_fusion", "nuslerp", "slerp")


def quality(method: str) -> float:
    """A share of the experts' accuracy, by the method's name."""
    return 0.7 + 0.28 * (zlib.crc32(method.encode()) % 1000) / 1000


def results(*, seeds=(0, 1, 2), counts=(2, 4, 8), methods=None) -> Results:
    """Two suites; the second has one kind of experts only. Slerps fail beyond two experts."""
    names = methods or [entry.name for entry in registry.entries("merge")]
    rows = []
    for suite, kinds in (("text", ("full", "lora")), ("image", ("full",))):
        for kind in kinds:
            for seed in seeds:
                rng = np.random.default_rng([seed, zlib.crc32(f"{suite}{kind}".encode())])
                expert = dict(zip(TASKS[suite], rng.uniform(0.8, 0.95, 12), strict=False))
                for count in counts:
                    rows += [
                        _row(rng, suite, kind, seed, count, name, expert)
                        for name in ["base", "expert", *names]
                    ]
    lock = Lock(
        suite="0" * 64,
        code=1,
        base="1" * 64,
        versions={"torch": "0.0"},
        machine="a drawn one",
        commits=["0123456789ab"],
        seeds={str(seed): Seeded(data={}, experts={}) for seed in seeds},
    )
    suites = {
        name: SuiteEntry(title=f"Drawn {name}", tasks=tasks, lock=lock) for name, tasks in TASKS.items()
    }
    return Results(suites=suites, rows=rows)


def _row(rng, suite, kind, seed, count, name, expert):
    place = {
        "suite": suite,
        "experts": kind,
        "seed": seed,
        "count": count,
        "method": name,
        "options": {},
    }
    if name in PAIRS and count > 2:
        return Row(**place, failed=f"{name} takes exactly 2 experts, found {count}")
    share = 1.0 if name == "expert" else 0.6 if name == "base" else quality(name) - 0.006 * count
    scores = {}
    for task in TASKS[suite][:count]:
        noise = 0.0 if name == "expert" else rng.normal(0, 0.03)
        scores[task] = {"value": float(np.clip(expert[task] * (share + noise), 0, 1)), "n": 300}
    merges = [entry.name for entry in registry.entries("merge")]
    fields = registry.get("merge", name).schema.model_fields if name in merges else {}
    return Row(
        **place,
        chosen={"scale": 0.3} if "scale" in fields else {},
        seconds=round(float(rng.uniform(0.05, 0.4) * count), 4),
        stored_bytes=90_000_000 * (count if name == "expert" else 1),
        scores=scores,
    )
