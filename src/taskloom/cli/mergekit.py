"""``taskloom merge their.yaml OUT``: carry out a mergekit file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from taskloom.cli import options, output
from taskloom.cli.listen import listening

if TYPE_CHECKING:
    from taskloom.runs.mergekit.api import StageReport


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
@click.argument("target", metavar="OUT", type=options.PLACE, required=False)
@click.option("--check", is_flag=True, help="Check all that headers tell; read no weights.")
@click.option("--explain", is_flag=True, help="Say what would be read and needed; read no weights.")
@click.option(
    "--intermediate",
    type=click.Path(path_type=Path),
    help="Folder for merges with names; else OUT.intermediate.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of methods that draw at random.")
@click.option("--force", is_flag=True, help="Replace what exists.")
@click.option("--threads", type=click.IntRange(1), help="Threads; else one per processor.")
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes of threads."
)
@click.option("--ray", metavar="ADDRESS", help="Do the work on a Ray cluster: auto, host:port, local.")
@click.option(
    "--device", metavar="NAME", default="cpu", show_default=True, help="Where to compute, e.g. cuda."
)
@click.option(
    "--slice-size", type=options.SIZE, metavar="SIZE", help="Bytes of a slice in float32, e.g. 1MB."
)
@click.option(
    "--max-shard-size",
    type=options.SIZE,
    metavar="SIZE",
    default="5GB",
    show_default=True,
    help="Split the weights above it.",
)
@click.option(
    "--nan",
    type=click.Choice(["refuse", "allow"]),
    default="refuse",
    show_default=True,
    help="NaN and infinity in an input.",
)
@click.option(
    "--digest",
    type=click.Choice(["all", "output", "none"]),
    default="all",
    show_default=True,
    help="What SHA-256 is computed of.",
)
@click.option("--discard", is_flag=True, help="Throw away what an interrupted merge left.")
@options.allow_pickle
@options.as_json
def yaml_command(
    file: Path,
    target: Path | str | None,
    check: bool,
    explain: bool,
    intermediate: Path | None,
    seed: int,
    force: bool,
    threads: int | None,
    workers: int,
    ray: str | None,
    device: str,
    slice_size: int | None,
    max_shard_size: int,
    nan: Literal["refuse", "allow"],
    digest: Literal["all", "output", "none"],
    discard: bool,
    allow_pickle: bool,
    as_json: bool,
) -> None:
    """Carry out a mergekit YAML, by mergekit's rules, into a directory that from_pretrained loads.

    Keys, methods and defaults are those of mergekit 0.1.5; what differs is in docs/mergekit.md. An
    interrupted merge is continued by the same command.
    """
    from taskloom.runs.mergekit import api

    if target is None and not (check or explain):
        raise click.UsageError("say where the output goes: taskloom merge FILE OUT")
    options.check_device(device, workers, ray)
    place: Path | str = target or Path("out")
    if check or explain:
        stages = api.plan_mergekit(
            file,
            place,
            intermediate=intermediate,
            seed=seed,
            nan=nan,
            allow_pickle=allow_pickle,
            slice_bytes=slice_size,
            device=device,
        )
        told = api.explain_mergekit(
            stages, place=target is not None, threads=threads, overwrite=force, device=device
        )
        _tell_plan(told, explain, as_json)
        return
    with listening() as progress:
        report = api.merge_mergekit(
            file,
            place,
            intermediate=intermediate,
            seed=seed,
            overwrite=force,
            threads=threads,
            workers=workers,
            ray=ray,
            device=device,
            slice_bytes=slice_size,
            max_shard_bytes=max_shard_size,
            nan=nan,
            digests=digest,
            discard=discard,
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


def _tell_plan(told: Sequence[dict[str, Any]], explain: bool, as_json: bool) -> None:
    if as_json:
        output.print_json({"ok": True, "merges": told})
        return
    for entry in told:
        click.echo(
            f"{entry['path']}: {entry['recipe']['method']} of {', '.join(entry['models'])}: "
            f"{entry['tensors']} tensors, {entry['bytes_written'] / 1e6:.1f} MB, from "
            f"{entry['bytes_read'] / 1e6:.1f} MB in {entry['reads']} reads"
            f"{'; there already' if entry['reused'] else ''}"
        )
        if explain:
            _tell_cost(entry)
        for note in entry["notes"]:
            click.echo(f"note: {note}", err=True)


def _tell_cost(entry: dict[str, Any]) -> None:
    files = {file["path"]: file["bytes"] for each in entry["inputs"] for file in each["files"]}
    for path, size in files.items():
        click.echo(f"  read {path} ({size / 1e6:,.1f} MB)")
    for group in entry["groups"]:
        whole = f"; {group['whole']!r} in memory as a whole" if group["whole"] else ""
        click.echo(
            f"  {group['tensors']} tensors: {group['composition']}: {group['reads']} reads, "
            f"{group['bytes_read'] / 1e6:,.1f} MB in, {group['bytes_written'] / 1e6:,.1f} MB out{whole}"
        )
    click.echo(
        f"  about {entry['memory_bytes'] / 1e6:,.0f} MB of memory with {entry['threads']} threads"
        f"{output.on_device(entry)}{output.room(entry)}"
    )
