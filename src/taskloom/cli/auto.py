"""``taskloom auto``: pool, target and minutes in; the model that does best on the target out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import taskloom
from taskloom.cli import options, output
from taskloom.cli.listen import listening

if TYPE_CHECKING:
    from taskloom.runs.auto.report import AutoReport, Point


@options.verb(
    "auto",
    example=(
        "taskloom auto rt_reviews --base models/base --expert spam=out/spam \\\n"
        "  --expert trec6=out/trec6 --minutes 5 -o runs/rt_reviews"
    ),
)
@click.argument("target", metavar="TASK")
@options.pool_options
@click.option("--minutes", type=float, default=5.0, show_default=True, help="Time there is.")
@click.option(
    "--labels", type=int, help="Labels of the target that may be used; 0: none. All if not given."
)
@click.option(
    "--head",
    type=click.Path(path_type=Path),
    help="With --labels 0: model directory with a head for it.",
)
@click.option("--parts", is_flag=True, help="Also try methods that keep a part per task.")
@click.option(
    "--try",
    "methods",
    multiple=True,
    metavar="NAME",
    help="Merging or fitting method, or fine-tune: then only these are tried; repeat for each.",
)
@click.option(
    "--tune", "tunings", multiple=True, metavar="OPTION=VALUE", help="Option of the fine-tunes; repeat."
)
@click.option(
    "--guard",
    type=click.Choice(["strict", "warn"]),
    default="strict",
    show_default=True,
    help="warn: hand over the best composition, whatever it loses to.",
)
@click.option("--max-train", type=click.IntRange(2), help="Most examples to fit on.  [default: 1000]")
@click.option(
    "--max-validation", type=click.IntRange(2), help="Most that choose and check.  [default: 200]"
)
@click.option("--max-test", type=click.IntRange(2), help="Most test examples.  [default: 500]")
@click.option(
    "-o",
    "--output",
    "output_path",
    type=click.Path(path_type=Path),
    help="Run folder, where an interrupted run goes on; runs/auto-TASK by default.",
)
@options.seed
@options.as_json
def command(
    target: str,
    base: str,
    experts: tuple[str, ...],
    minutes: float,
    labels: int | None,
    head: Path | None,
    parts: bool,
    methods: tuple[str, ...],
    tunings: tuple[str, ...],
    guard: str,
    max_train: int | None,
    max_validation: int | None,
    max_test: int | None,
    output_path: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Try what could help a target within some minutes, and hand over what does.

    Base, the most promising experts, their average, fine-tunes, merges and fits climb by successive
    halving: everything on a few examples, the best third on three times as many. What is left is held
    against base, experts, average and fine-tune on examples that chose nothing; the winner is written
    with its head, and a report. Give the same words again to go on after an interruption.
    """
    from taskloom.runs.plan import Limits

    wanted = {"train": max_train, "validation": max_validation, "test": max_test}
    limits = Limits(**{name: size for name, size in wanted.items() if size is not None})
    with listening() as progress:
        found = taskloom.auto(
            target,
            base,
            options.by_name_or_order(experts),
            minutes=minutes,
            output=output_path,
            labels=labels,
            head=head,
            parts=parts,
            methods=methods or None,
            tune=options.parsed(tunings),
            guard=guard,  # type: ignore[arg-type]
            limits=limits,
            seed=seed,
            progress=progress,
        )
    if as_json:
        output.print_json(found)
        return
    _tell(found)


def _tell(found: AutoReport) -> None:
    metric = "surety" if found.regime == "unlabeled" else found.metric
    rows: list[list[Any]] = []
    for row in found.rows:
        last = row.last
        reached = "" if last is None else f"{last.rung + 1} of {len(found.rungs)}"
        why = "handed over" if row.name == found.winner else row.why
        rows.append([row.name, _scored(last), _scored(row.check), reached, f"{row.seconds:.1f}", why])
    columns = ["model", f"{metric} (95 %)>", "check>", "rung>", "seconds>", "why no further"]
    output.print_table(f"{found.target}: what was tried", columns, rows)
    click.echo(found.reason)
    for note in found.notes:
        click.echo(note)
    if found.regret_bound is not None:
        bound = 100 * found.regret_bound
        click.echo(f"nothing that was tried is better by more than {bound:.1f} points (95 % bound)")
    click.echo(f"\n{found.sentence}")
    click.echo(f"handed over: {found.model}; report: {found.page}")
    click.echo(f"{found.seconds:.0f} of {60 * found.minutes:.0f} seconds")


def _scored(point: Point | None) -> str:
    if point is None:
        return ""
    return f"{point.value:.3f} [{point.low:.3f}, {point.high:.3f}] n={point.n}"
