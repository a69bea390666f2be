"""``taskloom select``: rank the experts of a pool for a target task."""

from __future__ import annotations

from typing import Any

import click

import taskloom
from taskloom.cli import options, output
from taskloom.cli.listen import listening
from taskloom.errors import PlanError


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
    "--mask",
    "masks",
    multiple=True,
    metavar="NAME=FILE",
    help="mask_overlap: what 'taskloom collect graft' wrote of an expert; repeat for each.",
)
@click.option("--target-mask", metavar="FILE", help="mask_overlap: the same of a model of the target.")
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
    masks: tuple[str, ...],
    target_mask: str | None,
    n_labels: int,
    seed: int,
    as_json: bool,
) -> None:
    """Rank the experts of a pool for a target task, best first.

    TASK is the name of a declared task or the path of an annotation. The score mask_overlap looks at
    sparse regions: the share of the target's mask that an expert's holds, too.
    """
    sources, names = options.named(experts)
    pool = sources if names is None else dict(zip(names, sources, strict=True))
    more: dict[str, Any] = {"scores": list(scores)} if scores else {}
    if masks or target_mask:
        more |= {"masks": _masks(masks), "target_mask": target_mask}
    with listening() as progress:
        selection = taskloom.select(
            target,
            base,
            pool,
            **more,
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


def _masks(words: tuple[str, ...]) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise PlanError(f"--mask {word!r} is not NAME=FILE", hint="Name the expert it is of")
        if name in found:
            raise PlanError(f"--mask gives the expert {name!r} twice")
        found[name] = path
    return found or None
