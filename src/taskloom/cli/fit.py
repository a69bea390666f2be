"""``taskloom fit``: fill the numbers of a recipe by a method that looks at examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

import taskloom
from taskloom.cli import options, output
from taskloom.cli.listen import listening
from taskloom.errors import PlanError

if TYPE_CHECKING:
    from taskloom.runs.fit import FitReport
    from taskloom.runs.judging import Margin

#: what is told of the fit itself, where it has been said
_SAID = (
    "evaluations",
    "modules",
    "not finite",
    "collapsed",
    "left out",
    "kept",
    "moved",
    "collapse",
    "preference",
)


@options.verb(
    "fit",
    example=(
        "taskloom fit adamerging --base models/base --expert a=out/spam --expert b=out/trec6 \\\n"
        "  --task sms_spam --task trec6 --set steps=100 --set rate=0.01 \\\n"
        "  --trace fit.json --picture fit.png -o out/fitted\n"
        "taskloom fit plan.yaml -o out/fitted"
    ),
)
@click.argument("method", metavar="METHOD|PLAN")
@options.base_option()
@options.expert_option()
@click.option("--task", "tasks", multiple=True, help="Task to fit on; repeat for each.")
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
    help="Weight of a task in what is minimised, 0 if it is not named; repeat for each.",
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
@click.option(
    "--labels",
    type=click.IntRange(1),
    help="Labelled examples of each task that are used, training and validation together.",
)
@click.option(
    "--guard",
    type=click.Choice(["strict", "warn"]),
    default="warn",
    show_default=True,
    help="strict: whoever wins is written, be it an expert or the fine-tune; warn: the result is.",
)
@click.option(
    "--tune",
    "tunings",
    multiple=True,
    metavar="OPTION=VALUE",
    help="Option of the fine-tune that the result is held against; repeat for each.",
)
@click.option("--no-fine-tune", is_flag=True, help="Hold the result against no fine-tune.")
@click.option("--trace", type=click.Path(path_type=Path), help="JSON or CSV of every step.")
@click.option("--picture", type=click.Path(path_type=Path), help="PNG or SVG of the loss by step.")
@click.option("--x", metavar="TASK", help="Task across, in the picture of a search's front.")
@click.option("--y", metavar="TASK", help="Task upwards, likewise; the first two by default.")
@click.option(
    "-o", "--output", "output_path", type=click.Path(path_type=Path), help="Directory for the model."
)
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@options.seed
@options.as_json
def command(
    method: str,
    base: str | None,
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
    labels: int | None,
    guard: Literal["strict", "warn"],
    tunings: tuple[str, ...],
    no_fine_tune: bool,
    trace: Path | None,
    picture: Path | None,
    x: str | None,
    y: str | None,
    output_path: Path | None,
    force: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Fit the numbers of a recipe on examples of tasks, and write the model that it makes.

    METHOD is a name that 'taskloom methods fit' lists, such as adamerging; or a small module on top of
    a merge ('taskloom methods module'), whose folder is then written. PLAN is a YAML file that says
    under fit what is fitted, and all else but where the results go. Training examples are seen,
    with labels only where the method says so; the result is held against the base, every expert,
    their average and the base fine-tuned on the same labels, on validation or, with few labels, by
    cross-validation. Test splits stay sealed unless --transductive is given.
    """
    from taskloom.runs.fit_module import fit_by_name

    written: dict[str, Any] = {"output": output_path, "trace": trace, "picture": picture}
    written |= {"x": x, "y": y, "journal": journal}
    if Path(method).suffix in (".yaml", ".yml"):
        _refuse_what_the_plan_says(method)
        with listening() as progress:
            found = taskloom.fit_by_plan(method, **written, overwrite=force, progress=progress)
        _end(found, as_json)
        return
    if base is None or not experts or not tasks:
        given = {"--base": base, "--expert": experts, "--task": tasks}
        raise PlanError(
            f"fitting {method} needs {', '.join(name for name, value in given.items() if not value)}",
            hint="Give it, or a plan that says everything",
        )
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
            **written,
            preference=options.preferred(preferences),
            examples=examples,
            batch_size=batch_size,
            split="test" if transductive else "train",
            transductive=transductive,
            labels=labels,
            guard=guard,
            tune=options.parsed(tunings),
            tuned=not no_fine_tune,
            overwrite=force,
            seed=seed,
            progress=progress,
        )
    _end(found, as_json)


#: options beside a plan
_BESIDE = ("method", "output_path", "trace", "picture", "x", "y", "journal", "force", "as_json")


def _refuse_what_the_plan_says(plan: str) -> None:
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name not in _BESIDE and source is click.core.ParameterSource.COMMANDLINE:
            raise PlanError(
                f"{plan} is a plan, which says what {parameter.opts[0]} would", hint="Write it there"
            )


def _end(found: FitReport, as_json: bool) -> None:
    if as_json:
        output.print_json(found)
    else:
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
    verdict, tasks = found.verdict, _tasks(found)
    columns = ["model", *(f"{task}>" for task in tasks), "mean>"]
    on = f"By {verdict.folds}-fold cross-validation" if verdict.folds else "On validation"
    output.print_table(f"{on} (95 % intervals)", columns, rows)
    ahead = [
        [rival, *(_difference(verdict.margin(rival, task)) for task in (*tasks, ""))]
        for rival in dict.fromkeys(margin.rival for margin in verdict.margins)
    ]
    title = f"{verdict.composition} minus each rival, on the same examples (95 % paired intervals)"
    output.print_table(title, columns, ahead)
    _tell_front(found)
    said, trace = found.fitted.said, found.fitted.trace
    if trace:
        end = trace[-1].values.get("best", trace[-1].loss)
        last = "at best" if "best" in trace[-1].values else "at last"
        told = f"{said.get('objective', 'loss')} {trace[0].loss:.4f} at first, {end:.4f} {last}"
        click.echo(f"{told} ({len(trace)} steps, {said.get('seconds', '?')} s)")
    for key in _SAID:
        if key in said:
            click.echo(f"{key}: {said[key]}")
    if said.get("transductive", "no") != "no":
        click.echo(f"transductive: {said['transductive']}")
    click.echo(verdict.reason)
    for path in (found.path, found.trace, found.picture):
        if path is not None:
            click.echo(f"wrote {path}")


def _tell_front(found: FitReport) -> None:
    """Print what no candidate of a search beats on every task at once; of one task there is no front."""
    from taskloom.runs.fit_front import front_of, tasks_of

    rows = front_of(found.fitted)
    if not rows:
        return
    tasks = tasks_of(found.fitted.trace[0])
    output.print_table(
        f"The front: {len(rows)} of {len(found.fitted.trace)} candidates, the others are beaten "
        "(losses on what was fitted on)",
        ["evaluation>", *(f"{task}>" for task in tasks), "by preference>", "chosen"],
        [
            [
                row.evaluation,
                *(f"{loss:.4f}" for loss in row.losses),
                f"{row.loss:.4f}",
                "yes" if row.chosen else "",
            ]
            for row in rows
        ],
    )


def _tasks(found: FitReport) -> list[str]:
    """Return the tasks that were judged; a module may have learned fewer than it was given."""
    return [score.task for score in next(iter(found.scored.values())).scores]


def _difference(margin: Margin) -> str:
    return f"{margin.gain:+.3f} [{margin.low:+.3f}, {margin.high:+.3f}] n={margin.n}"
