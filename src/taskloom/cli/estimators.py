"""``taskloom bench estimators``: how well scores foresee which source helps a target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskloom.cli import output
from taskloom.cli.listen import listening

if TYPE_CHECKING:
    from taskloom.runs.transfer.leaderboard import Standing

#: the page and the folder of pictures that are made of all matrices
PAGE, PICTURES = Path("docs") / "leaderboard.md", Path("docs") / "img"


def bench(
    plans: Sequence[str],
    seeds: Sequence[int],
    only: Sequence[str],
    matrix: Path | None,
    *,
    measure: bool,
    render: bool,
    values: Path | None,
    as_json: bool,
) -> None:
    """Print the leaderboard of every plan; if asked, measure first, or make the page instead."""
    from taskloom.runs.transfer.api import board
    from taskloom.runs.transfer.run import RESULTS

    if matrix is not None and len(plans) > 1:
        raise click.UsageError("--output is one matrix: give one --suite with it")
    if render:
        _render(RESULTS if matrix is None else matrix.parent, as_json)
        return
    found: dict[str, list[Standing]] = {}
    with listening() as progress:
        for plan in plans:
            found[plan] = board(
                plan,
                matrix=matrix,
                measure=measure,
                seeds=seeds or None,
                only=only or None,
                values=values,
                progress=progress,
            )
    if as_json:
        output.print_json(found)
        return
    for plan, standings in found.items():
        if standings:
            _tell(plan, standings)
        else:
            click.echo(f"{plan}: estimates are measured; without a matrix there is no leaderboard yet")


def _render(results: Path, as_json: bool) -> None:
    from taskloom.runs.transfer.render import render

    written = render(results, PAGE, PICTURES)
    if as_json:
        output.print_json(written)
    else:
        click.echo(", ".join(map(str, written)))


def _tell(plan: str, standings: Sequence[Standing]) -> None:
    from taskloom.runs.transfer.leaderboard import MEASURES

    columns = ["estimator", *(f"{measure}>" for measure in MEASURES), "seconds>", "missing>"]
    rows: list[list[Any]] = []
    for one in standings:
        shown = []
        for measure in MEASURES:
            found = one.measures[measure]
            scale = 100 if measure.startswith("regret") else 1
            shown.append(None if found is None else f"{scale * found.mean:.2f}")
        seconds = None if one.seconds is None else f"{one.seconds:.2f}"
        rows.append([one.name, *shown, seconds, one.missing or None])
    output.print_table(f"{plan}: how well estimates foresee what helps (regret in %)", columns, rows)
