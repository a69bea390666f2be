"""``taskloom select``: rank the experts of a pool for a target task."""

from __future__ import annotations

import click

import taskloom
from taskloom.cli import options, output
from taskloom.cli.listen import listening


@options.verb(
    "select",
    example="taskloom select quotes --base models/base --expert out/spam --expert out/trec6 --labels 64",
)
@click.argument("target", metavar="TASK")
@options.pool_options
@click.option(
    "--score",
    "scores",
    multiple=True,
    metavar="NAME",
    help="Transferability score; repeat for more. Without it: regularised h_score and three others.",
)
@click.option(
    "--labels",
    "n_labels",
    type=click.IntRange(min=4),
    default=64,
    show_default=True,
    help="Labelled examples of the target that may be used.",
)
@options.seed
@options.as_json
def command(
    target: str,
    base: str,
    experts: tuple[str, ...],
    scores: tuple[str, ...],
    n_labels: int,
    seed: int,
    as_json: bool,
) -> None:
    """Rank the experts of a pool for a target task, best first.

    TASK is the name of a declared task or the path of an annotation.
    """
    sources, names = options.named(experts)
    pool = sources if names is None else dict(zip(names, sources, strict=True))
    with listening() as progress:
        selection = taskloom.select(
            target,
            base,
            pool,
            **({"scores": list(scores)} if scores else {}),
            n_labels=n_labels,
            seed=seed,
            progress=progress,
        )
    if as_json:
        output.print_json(selection)
        return
    for ranking in selection.rankings:
        output.print_table(
            f"{target}: experts by {ranking.score} ({n_labels} labels, higher is better)",
            ["rank>", "expert", "score>"],
            [[entry.rank, entry.expert, entry.value] for entry in ranking.entries],
        )
