"""``taskloom extract``: a LoRA adapter out of a full fine-tune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import taskloom
from taskloom.cli import options, output
from taskloom.cli.listen import listening

if TYPE_CHECKING:
    from taskloom.merging.extract import ExtractReport


@options.verb(
    "extract",
    example="taskloom extract models/base out/spam --energy 0.95 --max-rank 64 -o out/spam-lora",
)
@click.argument("base", metavar="BASE")
@click.argument("expert", metavar="EXPERT")
@options.output
@click.option("--rank", type=int, help="Directions per matrix.")
@click.option("--energy", type=float, help="Share of each matrix's squared norm to keep.")
@click.option("--max-rank", type=int, help="Limit to the ranks that --energy chooses.")
@click.option("--include", multiple=True, metavar="PATTERN", help="Only these modules low-rank.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="These modules not low-rank.")
@click.option("--whole", multiple=True, metavar="PATTERN", help="Modules to store as they are.")
@click.option("--embedding", multiple=True, metavar="PATTERN", help="Modules that are embeddings.")
@click.option(
    "--fan-in-fan-out/--no-fan-in-fan-out", default=None, help="Weights are (in, out), as in GPT-2."
)
@click.option("--drop-rest", is_flag=True, help="Leave out changes that no adapter can hold.")
@click.option("--exact-up-to", type=int, default=1024, show_default=True, help="Side of a full SVD.")
@options.seed
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@options.allow_pickle
@options.as_json
def command(
    base: str,
    expert: str,
    output_path: Path,
    rank: int | None,
    energy: float | None,
    max_rank: int | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    whole: tuple[str, ...],
    embedding: tuple[str, ...],
    fan_in_fan_out: bool | None,
    drop_rest: bool,
    exact_up_to: int,
    seed: int,
    force: bool,
    allow_pickle: bool,
    as_json: bool,
) -> None:
    """Extract the LoRA adapter that comes closest to a full fine-tune EXPERT of BASE.

    Give --rank or --energy. What is not a matrix (norms, biases) is stored as it is; the table says
    how much of every change is kept. PATTERN is a module's name or its last parts, with * and ?.
    """
    with listening() as progress:
        report = taskloom.extract(
            base,
            expert,
            output_path,
            rank=rank,
            energy=energy,
            max_rank=max_rank,
            include=include,
            exclude=exclude,
            whole=whole,
            embeddings=embedding,
            fan_in_fan_out=fan_in_fan_out,
            drop_rest=drop_rest,
            exact_up_to=exact_up_to,
            seed=seed,
            overwrite=force,
            allow_pickle=allow_pickle,
            progress=progress,
        )
    for warning in report.warnings:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        output.print_json(report)
    else:
        _print(report)


def _print(report: ExtractReport) -> None:
    output.print_table(
        "Changed tensors; error and energy of the task vector",
        ["tensor", "stored", "shape", "rank>", "norm>", "error>", "energy>", "how"],
        [
            [t.name, t.stored, t.shape, t.rank, t.norm, t.error, t.energy, t.method]
            for t in report.tensors
        ],
    )
    lost = f", {len(report.lost)} tensors lost" if report.lost else ""
    click.echo(
        f"{report.path}: {len(report.tensors)} changed tensors, {report.unchanged} unchanged{lost}; "
        f"relative error {report.error:.4g}, energy kept {report.energy:.4%}, "
        f"{report.adapter_bytes / 1e6:.1f} MB, {report.seconds:.1f} s, "
        f"peak memory {report.peak_memory_bytes / 1e6:.0f} MB"
    )
