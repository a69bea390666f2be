"""``taskloom transfer``: the pairwise grid of sources and targets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import taskloom
from taskloom.cli import options, output
from taskloom.cli.listen import listening

if TYPE_CHECKING:
    from taskloom.runs.transfer.ledger import Matrix


@options.verb(
    "transfer",
    example="taskloom transfer text --workers 2\ntaskloom transfer grid.yaml --seed 0 -o grid.json",
)
@click.argument("plan", metavar="PLAN")
@click.option(
    "-o",
    "--output",
    "output_path",
    type=click.Path(path_type=Path),
    help="The results file; rows that are there are not measured again. Else "
    "benchmarks/results/transfer_NAME.json.",
)
@click.option("--seed", "seeds", type=click.IntRange(0), multiple=True, help="Only this seed; repeat.")
@click.option("--target", "targets", multiple=True, metavar="TASK", help="Only this target; repeat.")
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="TASK",
    help="Only this source, and the base without one; repeat.",
)
@click.option("--retry", is_flag=True, help="Measure again what failed.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes of this machine.",
)
@click.option("--ray", metavar="ADDRESS", help="Do the work on a Ray cluster: auto, host:port, local.")
@options.as_json
def command(
    plan: str,
    output_path: Path | None,
    seeds: tuple[int, ...],
    targets: tuple[str, ...],
    sources: tuple[str, ...],
    retry: bool,
    workers: int,
    ray: str | None,
    as_json: bool,
) -> None:
    """Try every source task on every target task, cell by cell into one file.

    PLAN is the name of a built-in plan or a YAML file. Source experts are trained once and kept in the
    cache. An interrupted run goes on where it stopped; a cell that fails is a row that says why.
    """
    with listening() as progress:
        found = taskloom.transfer(
            plan,
            output=output_path,
            seeds=seeds or None,
            targets=targets or None,
            sources=sources or None,
            retry=retry,
            workers=workers,
            ray=ray,
            progress=progress,
        )
    if as_json:
        output.print_json(found)
        return
    _tell(found)


def _tell(found: Matrix) -> None:
    from taskloom.runs.transfer.matrix import grids

    for grid in grids(found):
        rows = [
            [source, *(None if gain != gain else f"{100 * gain:+.1f}" for gain in gains)]
            for source, gains in zip(grid.sources, grid.gain.tolist(), strict=True)
        ]
        base = ["(base, %)", *(None if v != v else f"{100 * v:.1f}" for v in grid.base.tolist())]
        title = f"{grid.way}: points of test accuracy gained over the base, mean of the seeds"
        output.print_table(title, ["source", *(f"{t}>" for t in grid.targets)], [base, *rows])
    failed = [row for row in found.rows if row.failed]
    click.echo(f"{len(found.rows)} rows, {len(failed)} of them without a number")
    for row in failed:
        click.echo(f"{row.way}, {row.source} on {row.target}, seed {row.seed}: {row.failed}")
