"""The file of estimates: what every estimator said of every source and target, as numbers.

``{"format": 1, "plan": ..., "seeds": {...}, "rows": [...]}``, beside the matrix that it is held against.
With both files an estimator is scored without any model or data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, FiniteFloat

from taskloom.errors import IntegrityError, OutputError, TaskloomError
from taskloom.evaluation.strict import Strict, parse
from taskloom.runs.transfer.ledger import Matrix
from taskloom.store.atomic import atomic_file

FORMAT = 1


class Estimate(Strict):
    """One estimator on one target and seed.

    Attributes
    ----------
    values
        Source -> value, higher is better.
    pivots
        Other target -> value, of an estimator that TaskShop takes for a likeness of tasks.
    failed
        Source -> why there is none.
    seconds
        Of processors, for all sources together; running them on the target's examples is not in it.
    """

    estimator: str
    target: str
    seed: int
    values: dict[str, FiniteFloat] = Field({})
    pivots: dict[str, FiniteFloat] = Field({})
    failed: dict[str, str] = Field({})
    seconds: float

    @property
    def place(self) -> tuple[str, str, int]:
        """What was estimated."""
        return self.estimator, self.target, self.seed

    def line(self) -> str:
        """Return the row as one line of JSON."""
        content = self.model_dump(mode="json", exclude_defaults=True)
        for key in ("values", "pivots"):
            if key in content:
                content[key] = {name: float(f"{value:.8g}") for name, value in content[key].items()}
        return json.dumps(content, ensure_ascii=False)


class MapCost(Strict):
    """What a source costs by its embedding space map, beside its model.

    Attributes
    ----------
    bytes, model_bytes
        Of the map's numbers, and of the source's weight files.
    seconds
        Of processors, of making it: base and source are run on the examples, and the map is fitted.
    examples
        Of the source's task.
    explained
        Share of what fine-tuning changed that it tells, on examples it was not fitted to.
    """

    bytes: int
    model_bytes: int
    seconds: float
    examples: int
    explained: FiniteFloat


class Looked(Strict):
    """What the estimates of one seed are of.

    Attributes
    ----------
    data, experts
        Digests, as in the matrix.
    run_seconds
        Target -> seconds of processors of running one source on its labelled examples.
    maps
        Source -> what its embedding space map cost.
    """

    data: dict[str, str] = Field({})
    experts: dict[str, str] = Field({})
    run_seconds: dict[str, float] = Field({})
    maps: dict[str, MapCost] = Field({})


class Estimates(Strict):
    """The whole file."""

    format: Literal[1] = 1
    plan: str = ""
    seeds: dict[str, Looked] = Field({})
    rows: list[Estimate] = Field([])

    def text(self) -> str:
        """Return the file's text."""
        seeds = {seed: each.model_dump(mode="json") for seed, each in self.seeds.items()}
        content = {"format": self.format, "plan": self.plan, "seeds": seeds}
        head = json.dumps(content, indent=1, ensure_ascii=False)
        rows = ",\n".join(row.line() for row in self.rows)
        return f'{head[:-2]},\n "rows": [\n{rows}\n]}}\n' if rows else f'{head[:-2]},\n "rows": []}}\n'

    def by_place(self) -> Mapping[tuple[str, str, int], Estimate]:
        """Index the rows."""
        return {row.place: row for row in self.rows}

    @property
    def names(self) -> list[str]:
        """Estimators, in the order in which they were first measured."""
        return list(dict.fromkeys(row.estimator for row in self.rows))

    def check(self, matrix: Matrix, where: str) -> None:
        """Refuse estimates of other data or experts than the matrix is of.

        Raises
        ------
        IntegrityError
            They are of something else.
        """
        if matrix.plan is None or matrix.plan.name != self.plan:
            found = None if matrix.plan is None else matrix.plan.name
            raise IntegrityError(
                f"{where}: expected estimates of the matrix {found!r}, found {self.plan!r}",
                hint="Give the two files of one plan",
            )
        for seed, mine in self.seeds.items():
            known = matrix.plan.lock.seeds.get(seed)
            for what, own, other in (
                ("the target", mine.data, known.data if known else {}),
                ("the expert of", mine.experts, known.experts if known else {}),
            ):
                for name, digest in own.items():
                    if other.get(name, digest) != digest:
                        raise IntegrityError(
                            f"{where}: {what} {name!r}, seed {seed}, is not what the matrix was "
                            "measured with",
                            hint="Measure the estimates again: taskloom bench estimators --measure",
                        )


def path_of(matrix: Path) -> Path:
    """Return where the estimates of a matrix are kept.

    >>> path_of(Path("transfer_text.json")).name
    'transfer_text_estimates.json'
    """
    return matrix.with_name(f"{matrix.stem}_estimates{matrix.suffix}")


def read_estimates(path: Path) -> Estimates:
    """Read a file of estimates; one that is not there is empty.

    Raises
    ------
    OutputError
        It is no such file.
    """
    try:
        return parse(Estimates, json.loads(path.read_text(encoding="utf-8")), where=str(path))
    except FileNotFoundError:
        return Estimates()
    except (OSError, ValueError, TaskloomError) as error:
        raise OutputError(
            f"{path}: expected estimates of format {FORMAT}, but: {' '.join(str(error).split())}",
            hint="Take the file away and measure again",
        ) from None


def write_estimates(path: Path, found: Estimates) -> None:
    """Write the file, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(found.text(), encoding="utf-8")
