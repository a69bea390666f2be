"""``taskloom eval``: score models on tasks."""

from __future__ import annotations

import click

import taskloom
from taskloom.cli import options, output
from taskloom.cli.listen import listening


@options.verb(
    "eval",
    example="taskloom eval --base models/base --model out/merged --task trec6 --task sms_spam",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    required=True,
    metavar="[NAME=]PATH",
    help="Directory or hub id of a model; repeat for each.",
)
@click.option("--task", "tasks", multiple=True, required=True, help="Task; repeat for each.")
@options.base
@options.seed
@options.as_json
def command(
    models: tuple[str, ...], tasks: tuple[str, ...], base: str, seed: int, as_json: bool
) -> None:
    """Score models on the test split of tasks, each value with n and a 95 % interval.

    A model that carries a head for the task is scored with it, any other with the head that is
    fitted on the base's features, so that models of one base are comparable.
    """
    sources, names = options.named(models)
    wanted = sources if names is None else dict(zip(names, sources, strict=True))
    with listening() as progress:
        scores = taskloom.evaluate(wanted, list(tasks), base=base, seed=seed, progress=progress)
    if as_json:
        output.print_json(scores)
        return
    output.print_table(
        "Scores, with 95 % intervals",
        ["model", "task", "split", "metric", "value>", "low>", "high>", "n>"],
        [[s.model, s.task, s.split, s.metric, s.value, s.low, s.high, s.n] for s in scores],
    )
