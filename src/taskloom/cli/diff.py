"""``taskloom diff``: look at what experts changed in their base, before merging them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import taskloom
from taskloom.cli import options, output
from taskloom.cli.listen import listening

if TYPE_CHECKING:
    from taskloom.choose.diff import ChangedRows, Diff, Region

#: changed tokens shown per embedding and expert; --json and --html have all that --rows lists
SHOWN = 6


@options.verb("diff", example="taskloom diff models/base out/spam mood=out/sst2 --html diff.html")
@click.argument("base", metavar="BASE")
@click.argument("experts", metavar="[NAME=]EXPERT...", nargs=-1, required=True)
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with heatmaps."
)
@click.option("--full", is_flag=True, help="Print every layer and module type, not their sums alone.")
@click.option("--no-ranks", is_flag=True, help="Leave out the ranks: one read instead of two.")
@click.option(
    "--exact-rank-up-to",
    type=click.IntRange(min=1),
    metavar="N",
    help="Decompose matrices exactly whose smaller side is at most N (1024); estimate the others.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Most changed rows to list per embedding and expert.",
)
@options.seed
@options.allow_pickle
@options.as_json
def command(
    base: str,
    experts: tuple[str, ...],
    html: Path | None,
    full: bool,
    no_ranks: bool,
    exact_rank_up_to: int | None,
    rows: int,
    seed: int,
    allow_pickle: bool,
    as_json: bool,
) -> None:
    """Look at what experts changed in their base, before merging them.

    Prints the length of each task vector against the base's weights, cosines and sign conflicts
    between task vectors, the share of possible directions they use, and the vocabulary they
    changed; warnings go to the standard error.
    """
    sources, names = options.named(experts)
    limit = {} if exact_rank_up_to is None else {"exact_rank_up_to": exact_rank_up_to}
    with listening() as progress:
        found = taskloom.diff(
            base,
            sources,
            names=names,
            ranks=not no_ranks,
            rows=rows,
            seed=seed,
            allow_pickle=allow_pickle,
            progress=progress,
            **limit,
        )
    if html is not None:
        from taskloom.runs.diff_page import write_diff_page

        click.echo(f"wrote {write_diff_page(found, html)}", err=True)
    if as_json:
        output.print_json(found)
        return
    _print(found, full)


def _print(found: Diff, full: bool) -> None:
    output.print_table(
        f"Task vectors against {found.base}: {found.whole.parameters:,} parameters",
        ["expert", "relative norm>", "cosine with base>", "share of rank>"],
        [_expert(found, k) for k in range(len(found.experts))],
    )
    if found.pairs:
        output.print_table(
            "Pairs of task vectors",
            ["expert", "with", "cosine>", "sign conflict>"],
            [
                [
                    found.experts[i],
                    found.experts[j],
                    found.whole.cosines[i][j],
                    found.whole.sign_conflict[i][j],
                ]
                for i, j in found.pairs
            ],
        )
    if full:
        _print_regions(found, "By layer and module type", ["layer", "module type"], found.regions)
    else:
        _print_regions(found, "By layer", ["layer"], found.layers)
        _print_regions(found, "By module type", ["module type"], found.modules)
    changed = [entry for entry in found.vocabulary if entry.changed]
    if changed:
        output.print_table(
            "Changed vocabulary, most changed first",
            ["embedding", "expert", "changed>", "of>", "rows"],
            [_vocabulary(entry) for entry in changed],
        )
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    for finding in found.findings:
        click.echo(f"warning: {finding.message}", err=True)


def _expert(found: Diff, k: int) -> list[Any]:
    whole = found.whole
    return [found.experts[k], whole.relative_norm[k], whole.base_cosine[k], whole.rank_share[k]]


def _print_regions(found: Diff, title: str, places: list[str], regions: Sequence[Region]) -> None:
    columns = [*places, "parameters>", *(f"{name}>" for name in found.experts)]
    if found.pairs:
        columns += ["cosine>", "sign conflict>"]
    if found.ranks:
        columns += ["share of rank>"]
    rows = []
    for region in regions:
        row: list[Any] = [part for part in (region.row, region.column) if part]
        row += [f"{region.parameters:,}", *region.relative_norm]
        if found.pairs:
            row += [found.mean_cosine(region), region.any_conflict]
        if found.ranks:
            known = [share for share in region.rank_share if share is not None]
            row.append(sum(known) / len(known) if known else None)
        rows.append(row)
    output.print_table(f"{title}: relative norm of each expert, and means over all", columns, rows)


def _vocabulary(entry: ChangedRows) -> list[Any]:
    shown = [row.token if row.token is not None else f"#{row.number}" for row in entry.most[:SHOWN]]
    more = ", ..." if entry.changed > len(shown) else ""
    return [
        entry.tensor,
        entry.expert,
        f"{entry.changed:,}",
        f"{entry.rows:,}",
        ", ".join(shown) + more,
    ]
