"""``taskloom loop``: alternate training and merging."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import taskloom
from taskloom.cli import options, output
from taskloom.cli.listen import listening

if TYPE_CHECKING:
    from taskloom.runs.loops.result import Loop


@options.verb(
    "loop",
    example=(
        "taskloom loop --method atm --base models/base --task sms_spam --task trec6 \\\n"
        "  --set rounds=8 --set steps=20 --picture atm.svg -o out/atm\n"
        "taskloom loop --method forkmerge --base models/base --task trec6 --task sms_spam \\\n"
        "  --task subjectivity --set targets=[trec6] -o out/forkmerge"
    ),
)
@click.option("--method", required=True, help="atm, cold or forkmerge.")
@options.base
@options.tasks("Task to go around; repeat for each.")
@options.settings
@click.option(
    "--train",
    "training",
    multiple=True,
    metavar="OPTION=VALUE",
    help="Option of training, such as batch_size or learning_rate; repeat for each.",
)
@click.option(
    "--start", metavar="PATH|HUB_ID", help="Model to start from instead, such as a merge to refine."
)
@click.option("--no-compare", is_flag=True, help="Do not train what the method is compared with.")
@click.option("--keep", is_flag=True, help="Keep the models of all rounds in the cache.")
@click.option("--picture", type=click.Path(path_type=Path), help="PNG or SVG of validation by round.")
@click.option("--table", type=click.Path(path_type=Path), help="CSV of the rounds.")
@options.written_if_asked
def command(
    method: str,
    base: str,
    tasks: tuple[str, ...],
    settings: tuple[str, ...],
    training: tuple[str, ...],
    start: str | None,
    no_compare: bool,
    keep: bool,
    picture: Path | None,
    table: Path | None,
    output_path: Path | None,
    force: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Alternate training on tasks and merging, and compare with joint training and one merge.

    atm: tune a copy per task, merge, repeat. cold: as contributors that never see each other's data
    would (see taskloom cold for contributors of their own). forkmerge: fork by task weights, merge by
    coefficients searched on the targets' validation. A round that is finished is never done again;
    more rounds of the same loop continue it. Test splits stay sealed.
    """
    with listening() as progress:
        found = taskloom.loop(
            method,
            list(tasks),
            base,
            options=options.parsed(settings),
            train=options.parsed(training),
            start=start,
            compare=not no_compare,
            keep=keep,
            output=output_path,
            picture=picture,
            overwrite=force,
            seed=seed,
            progress=progress,
        )
    if table is not None:
        from taskloom.runs.loops.api import trace_csv
        from taskloom.store.atomic import atomic_file

        with atomic_file(table) as temporary:
            temporary.write_text(trace_csv(found), encoding="utf-8")
    if as_json:
        output.print_json({**found.plain(), "path": found.path})
        return
    _tell(found, [found.path, picture, table])


def _tell(found: Loop, written: list[Path | None]) -> None:
    names = [s.task for s in found.last.scores]
    output.print_table(
        "Rounds (validation, 95 % intervals)",
        ["round>", "steps>", *(f"{name}>" for name in names), "mean>"],
        [[each.number, each.steps, *_cells(each.scores), _mean(each)] for each in found.rounds],
    )
    if found.compared:
        output.print_table(
            "What the last round gains over (paired by example, 95 % intervals)",
            ["rival", "steps>", "score>", "gain>", "how it was made"],
            [_rival(each) for each in found.compared],
        )
    for note in found.notes:
        click.echo(note)
    click.echo(f"{found.method}: {found.steps} steps in {len(found.rounds) - 1} rounds")
    for path in written:
        if path is not None:
            click.echo(f"wrote {path}")


def _cells(scores: Any) -> list[str]:
    return [f"{s.value:.3f} [{s.low:.3f}, {s.high:.3f}] n={s.n}" for s in scores]


def _mean(each: Any) -> str:
    low, high = each.interval
    return f"{each.mean:.3f} [{low:.3f}, {high:.3f}]"


def _rival(each: Any) -> list[str]:
    score = sum(s.value for s in each.scores) / len(each.scores)
    gain = each.gains[-1] if each.gains else None
    told = f"{gain.gain:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]" if gain else "unknown"
    return [each.name, str(each.steps), f"{score:.3f}", told, each.what]
