"""``taskloom bench``: what methods achieve beside what papers claim, and what estimates foresee."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskloom.cli import options, output
from taskloom.cli.listen import listening

if TYPE_CHECKING:
    from taskloom.runs.claims.results import Results
    from taskloom.runs.claims.run import Trained

#: where the project keeps its measurements, and the page and picture that are made of them
RESULTS = Path("benchmarks") / "results" / "claims.json"
LEARNED = RESULTS.with_name("learned.json")
SOUPS = RESULTS.with_name("soups.json")
PAGE, PICTURE = Path("docs") / "claims.md", Path("docs") / "img" / "claims.svg"
LEARNED_PAGE, LEARNED_PICTURE = PAGE.with_name("learned.md"), PICTURE.with_name("learned.svg")


@options.verb(
    "bench",
    example="taskloom bench claims --suite text --seed 0 --experts full --count 8",
)
@click.argument(
    "what", metavar="claims|soups|estimators", type=click.Choice(["claims", "soups", "estimators"])
)
@click.option(
    "--suite",
    "suites",
    multiple=True,
    metavar="NAME|FILE",
    help="Suite, by name or YAML file; repeat for several. All built-in ones if none is given.",
)
@click.option("--seed", "seeds", type=click.IntRange(0), multiple=True, help="Only this seed; repeat.")
@click.option(
    "--experts",
    "kinds",
    type=click.Choice(["full", "lora"]),
    multiple=True,
    help="Only experts trained this way; repeat.",
)
@click.option(
    "--only",
    "methods",
    multiple=True,
    metavar="METHOD",
    help="Only this method or learned composition, or base or expert; repeat.",
)
@click.option(
    "--learned",
    is_flag=True,
    help="The compositions that learn (fits, small modules, loops), and what their claims compare them "
    "with, in place of the merging methods; in benchmarks/results/learned.json.",
)
@click.option("--count", "counts", type=int, multiple=True, help="Only pools of so many tasks; repeat.")
@click.option(
    "-o",
    "--output",
    "output_path",
    type=click.Path(path_type=Path),
    help="The results file; rows that are there are not measured again. "
    f"Else {RESULTS}, {LEARNED} or {SOUPS}.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes that measure rows, each with its share of the processors.",
)
@click.option(
    "--train-only", is_flag=True, help="Train experts and collect their statistics; measure nothing."
)
@click.option(
    "--render",
    is_flag=True,
    help=f"Measure nothing; make {PAGE} and {PICTURE} of the results file, or the leaderboard's.",
)
@click.option("--measure", is_flag=True, help="estimators: measure first what their file lacks.")
@click.option(
    "--values",
    type=click.Path(path_type=Path),
    help='estimators: one of your own, JSON {"target": {"source": value}}.',
)
@options.as_json
def command(
    what: str,
    suites: tuple[str, ...],
    seeds: tuple[int, ...],
    kinds: tuple[Any, ...],
    methods: tuple[str, ...],
    learned: bool,
    counts: tuple[int, ...],
    output_path: Path | None,
    workers: int,
    train_only: bool,
    render: bool,
    measure: bool,
    values: Path | None,
    as_json: bool,
) -> None:
    """Measure every merging method on suites of tasks, row by row into one file.

    soups: several fine-tunes of one task, and snapshots of one run, merged by the methods that are meant
    for them. Experts are trained once and kept in the cache. An interrupted measurement goes on.

    estimators: hold every score against the matrix of a transfer plan (--suite, text if none is given),
    from files alone, in seconds; --only names estimators that are measured.
    """
    if what == "estimators":
        if kinds or counts or train_only or workers > 1:
            raise click.UsageError("--experts, --count, --workers and --train-only go with claims")
        from taskloom.cli import estimators

        estimators.bench(
            suites or ("text",),
            seeds,
            methods,
            output_path,
            measure=measure,
            render=render,
            values=values,
            as_json=as_json,
        )
        return
    if measure or values is not None:
        raise click.UsageError("--measure and --values go with estimators")
    if what == "soups":
        if kinds or counts or train_only or render or learned or workers > 1:
            raise click.UsageError(
                "--experts, --learned, --count, --workers, --train-only and --render go with claims"
            )
        _soups(suites or ("text_soups",), seeds, methods, output_path or SOUPS, as_json)
        return
    output_path = output_path or (LEARNED if learned else RESULTS)
    if render and train_only:
        raise click.UsageError("--render measures nothing and --train-only renders nothing: give one")
    if render:
        _render(output_path, as_json, learned)
        return
    from taskloom.runs.claims.learned import held_against
    from taskloom.runs.claims.learned import learned as compositions
    from taskloom.runs.claims.run import Wanted, claims, train

    if learned:
        methods = methods or (*held_against(), *compositions())
    wanted = Wanted(seeds or None, kinds or None, methods or None, counts or None)
    with listening() as progress:
        if train_only:
            _tell_trained(train(suites or None, wanted, progress=progress), as_json)
            return
        found = claims(suites or None, wanted, output=output_path, workers=workers, progress=progress)
    _tell(found, output_path, as_json)


def _soups(
    suites: tuple[str, ...],
    seeds: tuple[int, ...],
    methods: tuple[str, ...],
    path: Path,
    as_json: bool,
) -> None:
    from taskloom.runs.claims.soups import soups, verdicts

    with listening() as progress:
        found = soups(
            suites, seeds=seeds or None, methods=methods or None, output=path, progress=progress
        )
    if as_json:
        output.print_json({"output": path, "rows": len(found.rows), "verdicts": verdicts(found)})
        return
    _tell(found, path, as_json)
    rows = [[method, each.word, each.why] for method, each in verdicts(found).items()]
    output.print_table("What papers claim of soups", ["method", "here", "why"], rows)


def _render(results: Path, as_json: bool, learned: bool) -> None:
    from taskloom.runs.claims.render import render

    page, picture = (LEARNED_PAGE, LEARNED_PICTURE) if learned else (PAGE, PICTURE)
    render(results, page, picture, learned=learned)
    if as_json:
        output.print_json({"page": page, "picture": picture})
    else:
        click.echo(f"{page}, {picture}")


def _tell_trained(found: list[Trained], as_json: bool) -> None:
    rows = [
        [one.suite, one.kind, one.seed, e.head.task, e.before.accuracy, e.best_validation, e.seconds]
        for one in found
        for e in one.experts
    ]
    columns = ["suite", "experts", "seed>", "task", "before>", "validation>", "seconds>"]
    if as_json:
        names = [name.rstrip(">") for name in columns]
        output.print_json([dict(zip(names, row, strict=True)) for row in rows])
        return
    output.print_table("Experts, in the cache", columns, rows)


def _tell(found: Results, path: Path, as_json: bool) -> None:
    failed = [row for row in found.rows if row.failed]
    if as_json:
        output.print_json({"output": path, "rows": len(found.rows), "failed": len(failed)})
        return
    click.echo(f"{path}: {len(found.rows)} rows, {len(failed)} of them without a rule for their pool")
