"""``taskloom fit``: fill the numbers of a recipe by a method that looks at examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from taskloom.cli import options, output
from taskloom.cli.listen import listening
from taskloom.errors import PlanError

if TYPE_CHECKING:
    from taskloom.runs.fit import FitReport


@options.verb(
    "fit",
    example=(
        "taskloom fit adamerging --base models/base --expert a=out/spam --expert b=out/trec6 \\\n"
        "  --task sms_spam --task trec6 --set steps=100 --set rate=0.01 \\\n"
        "  --trace fit.json --picture fit.png -o out/fitted"
    ),
)
@click.argument("method")
@options.pool_options
@click.option("--task", "tasks", multiple=True, required=True, help="Task to fit on; repeat for each.")
@options.settings
@click.option(
    "--own",
    "owners",
    multiple=True,
    metavar="TASK=EXPERT",
    help="Which expert was trained on a task, where it is not called after it; repeat for each.",
)
@click.option(
    "--prefer",
    "preferences",
    multiple=True,
    metavar="TASK=WEIGHT",
    help="Weight of a task in what a search makes smaller; repeat for each.",
)
@click.option("--evaluations", type=int, help="Budget of a search: merges that are tried.")
@click.option("--minutes", type=float, help="Budget of a search: minutes of trying merges.")
@click.option(
    "--journal",
    type=click.Path(path_type=Path),
    help="Where a search keeps what it measured, to be resumed; in the cache by default.",
)
@click.option(
    "--examples",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Most examples of a task.",
)
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True)
@click.option(
    "--transductive",
    is_flag=True,
    help="Fit on the inputs of the test splits, without labels; the result has seen them.",
)
@click.option("--merged", help="What a small module sits on; by default a merge made for it.")
@click.option("--strict", is_flag=True, help="Write nothing if a single model or the average wins.")
@click.option("--trace", type=click.Path(path_type=Path), help="JSON or CSV of every step.")
@click.option("--picture", type=click.Path(path_type=Path), help="PNG or SVG of the loss by step.")
@click.option(
    "-o", "--output", "output_path", type=click.Path(path_type=Path), help="Directory for the model."
)
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@options.seed
@options.as_json
def command(
    method: str,
    base: str,
    experts: tuple[str, ...],
    tasks: tuple[str, ...],
    settings: tuple[str, ...],
    owners: tuple[str, ...],
    preferences: tuple[str, ...],
    evaluations: int | None,
    minutes: float | None,
    journal: Path | None,
    examples: int,
    batch_size: int,
    transductive: bool,
    merged: str | None,
    strict: bool,
    trace: Path | None,
    picture: Path | None,
    output_path: Path | None,
    force: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Fit the numbers of a recipe on examples of tasks, and write the model that it makes.

    METHOD is a name that 'taskloom methods fit' lists, such as adamerging; or a small module on top of
    a merge ('taskloom methods module'), whose folder is then written. Training examples are seen,
    with labels only where the method says so; the result is held against the base, every expert and
    their average on validation. Test splits stay sealed unless --transductive is given.
    """
    from taskloom.runs.fit_module import fit_by_name

    sources, names = options.named(experts)
    wanted = sources if names is None else dict(zip(names, sources, strict=True))
    with listening() as progress:
        found = fit_by_name(
            method,
            list(tasks),
            base,
            wanted,
            merged=merged,
            options=options.parsed(settings) | _budget(evaluations, minutes),
            own=_owners(owners),
            output=output_path,
            trace=trace,
            picture=picture,
            preference=options.preferred(preferences),
            journal=journal,
            examples=examples,
            batch_size=batch_size,
            split="test" if transductive else "train",
            transductive=transductive,
            strict=strict,
            overwrite=force,
            seed=seed,
            progress=progress,
        )
    if as_json:
        output.print_json(found)
        return
    _tell(found)


def _budget(evaluations: int | None, minutes: float | None) -> dict[str, float]:
    given = {"evaluations": evaluations, "minutes": minutes}
    return {name: value for name, value in given.items() if value is not None}


def _owners(words: tuple[str, ...]) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for word in words:
        task, _, expert = word.rpartition("=")
        if not task or not expert:
            raise PlanError(f"--own {word!r} is not TASK=EXPERT", hint="Write --own trec6=b")
        if task in found:
            raise PlanError(f"--own names the task {task!r} twice", hint="Name it once")
        found[task] = expert
    return found or None


def _tell(found: FitReport) -> None:
    rows = []
    for name, row in found.scored.items():
        scores = [f"{s.value:.3f} [{s.low:.3f}, {s.high:.3f}] n={s.n}" for s in row.scores]
        rows.append([name, *scores, f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"])
    columns = ["model", *(f"{task}>" for task in found.tasks), "mean>"]
    output.print_table("On validation (95 % intervals)", columns, rows)
    said, trace = found.fitted.said, found.fitted.trace
    if trace:
        end = trace[-1].values.get("best", trace[-1].loss)
        last = "at best" if "best" in trace[-1].values else "at last"
        told = f"{said.get('objective', 'loss')} {trace[0].loss:.4f} at first, {end:.4f} {last}"
        click.echo(f"{told} ({len(trace)} steps, {said.get('seconds', '?')} s)")
    for key in ("evaluations", "modules", "not finite", "collapsed", "left out", "kept", "collapse"):
        if key in said:
            click.echo(f"{key}: {said[key]}")
    if said.get("transductive", "no") != "no":
        click.echo(f"transductive: {said['transductive']}")
    click.echo(found.verdict.reason)
    for path in (found.path, found.trace, found.picture):
        if path is not None:
            click.echo(f"wrote {path}")
