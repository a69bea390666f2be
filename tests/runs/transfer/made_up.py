"""Matrices and estimates that nobody measured, for tests of what is made of them."""

from __future__ import annotations

import numpy as np

from taskloom.runs.transfer.estimates import Estimate, Estimates, Looked
from taskloom.runs.transfer.ledger import (
    Cell,
    Lock,
    Matrix,
    PlanEntry,
    Seeded,
    SourceFacts,
    TaskFacts,
)

SOURCES, TARGETS, SEEDS = ["a", "b", "c", "d", "e", "f"], ["t", "u", "a"], [0, 1]


def accuracies(seed: int = 0) -> np.ndarray:
    """Return (K, S, T) accuracies, NaN for the source ``a`` on itself."""
    found = np.random.default_rng(seed).uniform(0.5, 0.9, size=(2, 6, 3)).round(3)
    found[:, 0, 2] = np.nan
    return found


def matrix(tests: np.ndarray | None = None, base: float = 0.7, ways=("full",)) -> Matrix:
    """Return a whole matrix; every way has the same numbers, the base the same everywhere."""
    tests = accuracies() if tests is None else tests
    rows = []
    for way in ways:
        for k, seed in enumerate(SEEDS):
            for t, target in enumerate(TARGETS):
                place = {"way": way, "target": target, "seed": seed, "n_test": 100}
                rows.append(Cell(**place, source="base", test=base))
                rows += [
                    Cell(**place, source=source, test=float(tests[k, s, t]))
                    for s, source in enumerate(SOURCES)
                    if tests[k, s, t] == tests[k, s, t]
                ]
    facts = {
        source: SourceFacts(
            train=100 * (s + 1), classes=2, before=0.5, after=0.6 + s / 100, moved=0.1, seconds=1.0
        )
        for s, source in enumerate(SOURCES)
    }
    seeded = Seeded(
        data={target: f"data {target}" for target in TARGETS},
        experts={source: f"expert {source}" for source in SOURCES},
        facts=facts,
    )
    lock = Lock(
        plan="p", ways=dict.fromkeys(ways, "w"), code=1, base="b", versions={"torch": "2"},
        machine="a machine", seeds={str(seed): seeded for seed in SEEDS},
    )  # fmt: skip
    tasks = {n: TaskFacts(title=n, description=n, classes=2) for n in {*SOURCES, *TARGETS}}
    plan = PlanEntry(
        name="made_up", title="Six sources on three targets", sources=SOURCES, targets=TARGETS,
        ways=list(ways), seeds=SEEDS, labels=8, left_out={"a": {"a": "itself"}}, tasks=tasks, lock=lock,
    )  # fmt: skip
    return Matrix(plan=plan, rows=rows)


def estimates(values: dict[str, np.ndarray]) -> Estimates:
    """Return estimates of the made-up plan from (K, S, T) arrays by estimator; NaN is left out."""
    rows = []
    for name, array in values.items():
        for k, seed in enumerate(SEEDS):
            for t, target in enumerate(TARGETS):
                own = {
                    source: float(array[k, s, t])
                    for s, source in enumerate(SOURCES)
                    if array[k, s, t] == array[k, s, t] and source != target
                }
                pivots = {other: 0.5 for other in TARGETS if other != target} if name == "roe" else {}
                rows.append(
                    Estimate(
                        estimator=name, target=target, seed=seed, values=own, pivots=pivots, seconds=2.0
                    )
                )
    looked = Looked(
        data={target: f"data {target}" for target in TARGETS},
        experts={source: f"expert {source}" for source in SOURCES},
        run_seconds=dict.fromkeys(TARGETS, 1.5),
    )
    return Estimates(plan="made_up", seeds={str(seed): looked for seed in SEEDS}, rows=rows)
