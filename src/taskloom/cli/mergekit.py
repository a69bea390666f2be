"""``taskloom merge their.yaml OUT``: carry out a mergekit file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from taskloom.cli import options, output
from taskloom.cli.listen import listening

if TYPE_CHECKING:
    from taskloom.runs.mergekit.api import Stage, StageReport


def instead(command: click.Command | None, words: Sequence[str]) -> click.Command | None:
    """Return the command for mergekit files if one is given as a word of its own, else ``command``."""
    files = [word for word in words if word.lower().endswith((".yml", ".yaml")) and Path(word).is_file()]
    if not files:
        return command
    from taskloom.runs.mergekit.reading import looks_like_mergekit

    return yaml_command if words[0] in files or any(map(looks_like_mergekit, files)) else command


@options.verb(
    "merge",
    example=(
        "taskloom merge their.yaml out/merged\n"
        "  taskloom merge --check their.yaml  (reads headers and configurations only)"
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path), required=False)
@click.option("--check", is_flag=True, help="Say what would be done and what is wrong; merge nothing.")
@click.option(
    "--intermediate",
    type=click.Path(path_type=Path),
    help="Folder for merges with names; else OUT.intermediate.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of methods that draw at random.")
@click.option("--force", is_flag=True, help="Replace what exists.")
@click.option("--threads", type=click.IntRange(1), help="Else as many as there are processors.")
@click.option("--nan", type=click.Choice(["refuse", "allow"]), default="refuse", show_default=True)
@options.allow_pickle
@options.as_json
def yaml_command(
    file: Path,
    target: Path | None,
    check: bool,
    intermediate: Path | None,
    seed: int,
    force: bool,
    threads: int | None,
    nan: Literal["refuse", "allow"],
    allow_pickle: bool,
    as_json: bool,
) -> None:
    """Carry out a mergekit YAML, by mergekit's rules, into a directory that from_pretrained loads.

    Keys, methods and defaults are those of mergekit 0.1.5; what differs is in docs/mergekit.md.
    """
    from taskloom.runs.mergekit import api

    if target is None and not check:
        raise click.UsageError("say where the output goes: taskloom merge FILE OUT")
    place = target or Path("out")
    if check:
        stages = api.plan_mergekit(
            file, place, intermediate=intermediate, seed=seed, allow_pickle=allow_pickle
        )
        _tell_plan(stages, as_json)
        return
    with listening() as progress:
        report = api.merge_mergekit(
            file,
            place,
            intermediate=intermediate,
            seed=seed,
            overwrite=force,
            threads=threads,
            nan=nan,
            allow_pickle=allow_pickle,
            progress=progress,
        )
    if as_json:
        output.print_json(report)
        return
    for stage in report.stages:
        _tell(stage)


def _tell(stage: StageReport) -> None:
    done = "there already" if stage.reused else f"{stage.seconds:.1f} s"
    click.echo(
        f"{stage.path}: {stage.method}, {stage.tensors} tensors; {stage.reads} reads, "
        f"{stage.bytes_read / 1e6:.1f} MB read; {done}"
    )
    for note in stage.notes:
        click.echo(f"note: {note}", err=True)


def _tell_plan(stages: Sequence[Stage], as_json: bool) -> None:
    if as_json:
        output.print_json([{**stage.plan.explain(1), "path": stage.path} for stage in stages])
        return
    for stage in stages:
        plan, config = stage.plan, stage.document.config
        models = ", ".join(str(name) for name in config.referenced)
        click.echo(
            f"{stage.path}: {config.merge_method} of {models}: {len(plan.order)} tensors, "
            f"{plan.bytes_written / 1e6:.1f} MB, from {plan.bytes_read / 1e6:.1f} MB in "
            f"{plan.reads} reads"
        )
        for note in stage.resolved.notes:
            click.echo(f"note: {note}", err=True)
