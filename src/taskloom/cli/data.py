"""``taskloom data``: choose the examples of a pool that help a target."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

import taskloom
from taskloom.cli import options, output
from taskloom.cli.listen import listening


@options.verb(
    "data",
    example="taskloom data pool.jsonl --target questions.jsonl --method dsir --k 10000 -o chosen.jsonl",
)
@click.argument("pool", metavar="POOL", type=click.Path())
@click.option("--target", metavar="DATA", help="A few dozen examples of the target.")
@click.option("--method", default="dsir", show_default=True, help="Selector; see taskloom methods.")
@click.option("--k", type=click.IntRange(1), help="Rows to choose.")
@click.option("--fraction", type=click.FloatRange(0, 1, min_open=True), help="Or a share of the pool.")
@options.settings
@click.option("--model", metavar="DIR", help="Encoder of texts: for nearest and mona.")
@click.option(
    "--vectors",
    multiple=True,
    metavar="OPTION=VALUE",
    help="How gradients and codes are made, e.g. proxy_steps=500; repeat for each.",
)
@click.option("--column", default="text", show_default=True, help="Column of the texts.")
@click.option("--target-column", metavar="NAME", help="The target's, where it is another.")
@click.option(
    "--held-out", metavar="DATA", help="Test examples, whose near-duplicates are never chosen."
)
@click.option("--held-out-column", metavar="NAME", help="Theirs, where it is another.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.8,
    show_default=True,
    help="Jaccard similarity of word pairs from which a text is a near-duplicate.",
)
@click.option(
    "--duplicates",
    type=click.Choice(["once", "keep"]),
    default="once",
    show_default=True,
    help="Choose equal texts once, or each.",
)
@click.option("--score-column", metavar="NAME", help="Also write the scores, in this column.")
@click.option(
    "-o",
    "--output",
    "output_path",
    required=True,
    type=click.Path(path_type=Path),
    help="File or directory to write, in the pool's format.",
)
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@options.seed
@options.as_json
def command(
    pool: str,
    target: str | None,
    method: str,
    k: int | None,
    fraction: float | None,
    settings: tuple[str, ...],
    model: str | None,
    vectors: tuple[str, ...],
    column: str,
    target_column: str | None,
    held_out: str | None,
    held_out_column: str | None,
    threshold: float,
    duplicates: Literal["once", "keep"],
    score_column: str | None,
    output_path: Path,
    force: bool,
    workers: int,
    seed: int,
    as_json: bool,
) -> None:
    """Choose the examples of a pool that help a target.

    POOL, target and held-out examples are jsonl, csv, tsv, parquet or txt files (one text a line), or
    directories that the library datasets saved. The chosen rows are written in the pool's format and
    order; beside them a record of how they were chosen.
    """
    made: dict[str, Any] = options.parsed(vectors)
    if model is not None:
        made["model"] = model
    with listening() as progress:
        chosen = taskloom.select_data(
            pool,
            target,
            method=method,
            k=k,
            fraction=fraction,
            options=options.parsed(settings),
            vectors=made,
            column=column,
            target_column=target_column,
            held_out=held_out,
            held_out_column=held_out_column,
            threshold=threshold,
            duplicates=duplicates,
            score_column=score_column,
            output=output_path,
            overwrite=force,
            workers=workers,
            seed=seed,
            progress=progress,
        )
    if as_json:
        output.print_json({"path": chosen.path, **chosen.record})
        return
    left = f"; {chosen.contaminated} near-duplicates of held-out examples left out"
    click.echo(
        f"{chosen.path}: {len(chosen.rows)} of {chosen.pool} rows by {method}, scores "
        f"{chosen.scores[0]:.4g} to {chosen.scores[-1]:.4g}{left if held_out else ''}"
    )
