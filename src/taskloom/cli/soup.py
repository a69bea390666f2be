"""``taskloom soup``: average experts into a soup that is tasted on validation."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

import taskloom
from taskloom.cli import options, output
from taskloom.cli.listen import listening

if TYPE_CHECKING:
    from taskloom.runs.soup import Soup


@options.verb(
    "soup",
    example=(
        "taskloom soup rewarded --base models/base --expert a=out/spam --expert b=out/trec6 \\\n"
        "  --task sms_spam --task trec6 --picture front.png \\\n"
        "  --prefer sms_spam=1 --prefer trec6=2 -o out/soup"
    ),
)
@click.argument("kind", type=click.Choice(["greedy", "rewarded"]))
@options.pool_options
@options.tasks("Task to taste on; repeat for each.")
@click.option(
    "--levels",
    type=click.IntRange(2),
    default=11,
    show_default=True,
    help="rewarded: settings from 0 to 1 along every edge of the simplex.",
)
@click.option("--strict", is_flag=True, help="greedy: keep an expert only if the mean rises.")
@click.option(
    "--prefer",
    "preferences",
    multiple=True,
    metavar="TASK=WEIGHT",
    help="rewarded: weight of a task in the choice of one mixture; repeat for each.",
)
@click.option("--picture", type=click.Path(path_type=Path), help="rewarded: PNG or SVG of the front.")
@click.option(
    "--guard",
    type=click.Choice(["strict", "warn", "off"]),
    default="warn",
    show_default=True,
    help="strict: whoever wins is written, be it an expert or the fine-tune; warn: the soup is; off: "
    "all validation examples choose, and none judges.",
)
@click.option("--no-fine-tune", is_flag=True, help="Hold the soup against no fine-tune.")
@click.option("--table", type=click.Path(path_type=Path), help="CSV of everything that was tasted.")
@options.written_if_asked
def command(
    kind: Literal["greedy", "rewarded"],
    base: str,
    experts: tuple[str, ...],
    tasks: tuple[str, ...],
    levels: int,
    strict: bool,
    preferences: tuple[str, ...],
    picture: Path | None,
    guard: Literal["strict", "warn", "off"],
    no_fine_tune: bool,
    table: Path | None,
    output_path: Path | None,
    force: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Average experts into a soup that is tasted on the validation examples of tasks.

    greedy: experts are averaged in one by one, the best first, where the mean over the tasks does not
    fall. rewarded: every weighting on a grid is scored on every task, and those that no other beats
    are the front; --prefer chooses one of them. What was chosen on one half of the validation examples
    is held against base, experts, average and fine-tune on the other. Test splits stay sealed.
    """
    with listening() as progress:
        found = taskloom.soup(
            kind,
            list(tasks),
            base,
            options.by_name_or_order(experts),
            levels=levels,
            ties=not strict,
            preference=options.preferred(preferences),
            output=output_path,
            picture=picture,
            guard=None if guard == "off" else guard,
            tuned=not no_fine_tune,
            overwrite=force,
            seed=seed,
            progress=progress,
        )
    if table is not None:
        _write_table(found, table)
    if as_json:
        output.print_json(found)
        return
    _tell(found, table)


def _write_table(found: Soup, path: Path) -> None:
    from taskloom.store.atomic import atomic_file

    rows = found.table()
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_file(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def _tell(found: Soup, table: Path | None) -> None:
    greedy = found.kind == "greedy"
    rows = found.tasted if greedy else found.front
    title = (
        "Soups in the order in which they were tasted"
        if greedy
        else f"The front: {len(rows)} of {len(found.tasted)} mixtures, the others are beaten"
    )
    columns = [*(f"{name}>" for name in found.experts), *(f"{task}>" for task in found.tasks)]
    kept = ["kept"] if greedy else []
    output.print_table(
        f"{title} (validation, 95 % intervals)",
        [*columns, "mean>", *kept],
        [[*_cells(found, row), *(["yes" if row.kept else "no"] if greedy else [])] for row in rows],
    )
    if found.chosen is not None:
        used = {name: weight for name, weight in found.chosen.weights.items() if weight}
        said = ", ".join(name if greedy else f"{name} {weight:g}" for name, weight in used.items())
        click.echo(f"chosen: {said} ({found.chosen.value:.4f} on the examples that chose)")
    if found.verdict is not None:
        output.print_table(
            "The chosen soup minus each rival, on examples that chose nothing (95 % paired intervals)",
            ["rival", "difference>", "n>"],
            [
                [m.rival, f"{m.gain:+.3f} [{m.low:+.3f}, {m.high:+.3f}]", m.n]
                for m in found.verdict.margins
                if not m.task
            ],
        )
        click.echo(found.verdict.reason)
    elif found.chosen is not None:
        click.echo(f"not held against rivals: {found.unjudged}")
    for path in (found.path, found.picture, table):
        if path is not None:
            click.echo(f"wrote {path}")


def _cells(found: Soup, row: Any) -> list[str]:
    weights = [f"{row.weights[name]:.3g}" for name in found.experts]
    scores = [f"{s.value:.3f} [{s.low:.3f}, {s.high:.3f}] n={s.n}" for s in row.scores]
    return [*weights, *scores, f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"]
