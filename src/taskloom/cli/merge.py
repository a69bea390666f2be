"""``taskloom merge``: merge experts into one model on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import click

import taskloom
from taskloom.cli import options, output
from taskloom.cli.listen import listening
from taskloom.errors import PlanError

if TYPE_CHECKING:
    import torch

    from taskloom.merging.lowrank import AdapterReport

DTYPES = ("float64", "float32", "bfloat16", "float16")


@options.verb(
    "merge",
    example=(
        "taskloom merge --base models/base --expert out/spam --expert out/trec6 \\\n"
        "  --method ties --set density=0.2 --set scale=1 -o out/merged"
    ),
)
@options.base_option()
@options.experts
@click.option(
    "--method", required=True, help="A name that 'taskloom methods' lists, or a recipe file (YAML)."
)
@options.settings
@click.option(
    "--statistic",
    "statistics",
    multiple=True,
    metavar="NAME=FILE",
    help="What 'taskloom collect' wrote of an expert; repeat for each.",
)
@options.place
@click.option("--seed", type=int, help="Seed, for methods that draw random numbers.")
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Of the merged tensors; else the base's.")
@click.option(
    "--as-adapter", is_flag=True, help="Merge adapters into one adapter (linear methods only)."
)
@click.option("--rank", type=int, help="With --as-adapter: most directions of a matrix.")
@click.option("--energy", type=float, help="With --as-adapter: share of the squared norm to keep.")
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
@click.option(
    "--heads",
    metavar="refuse|keep|MODULES",
    default="refuse",
    show_default=True,
    help="Heads of tasks: must fit, or are kept beside the merged model ('keep': the usual names).",
)
@click.option(
    "--tokenizer",
    metavar="base|union|NAME|DIR",
    default="base",
    show_default=True,
    help="'union' places embeddings by token; or whose tokenizer is copied.",
)
@click.option(
    "--chat-template",
    metavar="NAME|DIR|FILE|none",
    help="Whose chat template; else as it comes with the tokenizer.",
)
@click.option(
    "--reestimate-batchnorm",
    "batchnorm",
    multiple=True,
    metavar="TASK",
    help="Batch norm of the merged model from unlabelled inputs of a task; repeat for each.",
)
@click.option("--discard", is_flag=True, help="Throw away what an interrupted merge left.")
@click.option("--explain", is_flag=True, help="Say what would be read and needed; read no weights.")
@click.option("--check", is_flag=True, help="Check all that headers tell; read no weights.")
@options.allow_pickle
@options.as_json
def command(
    base: str | None,
    experts: tuple[str, ...],
    method: str,
    settings: tuple[str, ...],
    statistics: tuple[str, ...],
    output_path: Path | str,
    seed: int | None,
    force: bool,
    dtype: str | None,
    as_adapter: bool,
    rank: int | None,
    energy: float | None,
    threads: int | None,
    workers: int,
    ray: str | None,
    device: str,
    slice_size: int | None,
    max_shard_size: int,
    nan: Literal["refuse", "allow"],
    digest: Literal["all", "output", "none"],
    heads: str,
    tokenizer: str,
    chat_template: str | None,
    batchnorm: tuple[str, ...],
    discard: bool,
    explain: bool,
    check: bool,
    allow_pickle: bool,
    as_json: bool,
) -> None:
    """Merge experts of one base into a directory that from_pretrained loads.

    Methods that work on whole weights (average, slerp) need no base. With --as-adapter the experts are
    LoRA adapters and so is the output; no full matrix is made.

    With --reestimate-batchnorm the merged model is run on training inputs of the task before it is
    written, and has means and variances of its own.

    An interrupted merge is continued by the same command. The output's bytes do not depend on
    --threads, --workers and --slice-size.
    """
    options.check_device(device, workers, ray)
    values = options.method_options(settings, taskloom.merge_files)
    if "seed" in values:
        if seed is not None:
            raise click.UsageError("the seed is given twice, by --seed and by --set seed")
        seed = values.pop("seed")
        if type(seed) is not int:
            raise PlanError(f"--set seed: expected a whole number, found {seed!r}", hint="Write seed=1")
    sources, names = options.named(experts)
    if as_adapter and statistics:
        raise click.UsageError("--statistic does not go with --as-adapter, which takes linear methods")
    if batchnorm and (as_adapter or ray is not None):
        flag = "--as-adapter" if as_adapter else "--ray"
        raise click.UsageError(f"--reestimate-batchnorm runs the merged model here, without {flag}")
    if as_adapter:
        if ray is not None or device != "cpu":
            flag = "--device" if ray is None else "--ray"
            raise click.UsageError(f"{flag} goes with merges of whole models, not with --as-adapter")
        if base is None:
            raise click.UsageError("--as-adapter needs the --base that the adapters were trained on")
        with listening() as progress:
            merged = taskloom.merge_adapters(
                base,
                sources,
                method,
                output_path,
                rank=rank,
                energy=energy,
                names=names,
                seed=seed,
                dtype=_torch_dtype(dtype or "float32"),
                overwrite=force,
                allow_pickle=allow_pickle,
                progress=progress,
                **values,
            )
        _tell_adapter(merged, as_json)
        return
    if rank is not None or energy is not None:
        raise click.UsageError("--rank and --energy go with --as-adapter")
    known = options.by_expert(statistics)
    if explain or check:
        if batchnorm:
            from taskloom.runs.batchnorm import check_batch_norm
            from taskloom.store.hub import resolve_model

            check_batch_norm(resolve_model(base or sources[0]), batchnorm)
        told = taskloom.explain(
            base,
            sources,
            method,
            output_path,
            names=names,
            seed=seed,
            dtype=dtype,
            overwrite=force,
            allow_pickle=allow_pickle,
            threads=threads,
            slice_bytes=slice_size,
            heads=heads,
            tokenizer=tokenizer,
            chat_template=chat_template,
            statistics=known,
            device=device,
            **values,
        )
        _tell_plan(told, explain, as_json)
        if batchnorm and explain and not as_json:
            click.echo(
                f"batch norm of {' and '.join(batchnorm)}: the merged model is in memory, and run"
            )
        return
    with listening() as progress:
        amend = (
            taskloom.batch_norm_of(base or sources[0], batchnorm, seed=seed or 0, progress=progress)
            if batchnorm
            else None
        )
        report = taskloom.merge_files(
            base,
            sources,
            method,
            output_path,
            names=names,
            seed=seed,
            dtype=dtype,
            overwrite=force,
            allow_pickle=allow_pickle,
            threads=threads,
            workers=workers,
            ray=ray,
            device=device,
            slice_bytes=slice_size,
            max_shard_bytes=max_shard_size,
            nan=nan,
            digests=digest,
            heads=heads,
            tokenizer=tokenizer,
            chat_template=chat_template,
            discard=discard,
            amend=amend,
            progress=progress,
            statistics=known,
            **values,
        )
    if as_json:
        output.print_json(report)
        return
    click.echo(
        f"{report.path}: {method} of {output.experts(len(sources))} ({report.composition}); "
        f"{report.reads} reads, {report.bytes_read / 1e6:.1f} MB read, {report.seconds:.1f} s, "
        f"peak memory {report.peak_memory_bytes / 1e6:.0f} MB"
        f"{f'; {amend.note}' if amend is not None else ''}"
    )


def _tell_plan(told: dict[str, Any], explain: bool, as_json: bool) -> None:
    if as_json:
        output.print_json({"ok": True, **told})
        return
    if not explain:
        click.echo(
            f"ok: {told['tensors']} tensors, {told['recipe']['composition']}; all that headers tell fits"
        )
        return
    for entry in told["inputs"]:
        for file in entry["files"]:
            click.echo(f"read {file['path']} ({file['bytes'] / 1e6:,.1f} MB)")
    for group in told["groups"]:
        whole = f"; {group['whole']!r} in memory as a whole" if group["whole"] else ""
        if group["grain"] == "matrix":
            whole += "; whole matrices, one at a time"
        click.echo(
            f"{group['tensors']} tensors: {group['composition']}: {group['reads']} reads, "
            f"{group['bytes_read'] / 1e6:,.1f} MB in, {group['bytes_written'] / 1e6:,.1f} MB out{whole}"
        )
    click.echo(
        f"{told['reads']} reads, {told['bytes_read'] / 1e6:,.1f} MB to read, "
        f"{told['bytes_written'] / 1e6:,.1f} MB to write, about {told['memory_bytes'] / 1e6:,.0f} MB "
        f"of memory with {told['threads']} threads{output.on_device(told)}{output.room(told)}"
    )


def _tell_adapter(report: AdapterReport, as_json: bool) -> None:
    if as_json:
        output.print_json(report)
        return
    ranks = [module.rank for module in report.modules]
    whole = f", {len(report.whole)} tensors whole" if report.whole else ""
    count = len(report.weights)
    click.echo(
        f"{report.path}: {report.method} of {count} adapter{'s' * (count != 1)} ({report.composition}); "
        f"{len(ranks)} matrices of rank {min(ranks)} to {max(ranks)}{whole}, relative error "
        f"{report.error:.2g}, {report.adapter_bytes / 1e6:.1f} MB, {report.seconds:.1f} s, "
        f"peak memory {report.peak_memory_bytes / 1e6:.0f} MB"
    )


@overload
def _torch_dtype(name: str) -> torch.dtype: ...
@overload
def _torch_dtype(name: None) -> None: ...
def _torch_dtype(name: str | None) -> torch.dtype | None:
    if name is None:
        return None
    import torch

    found: torch.dtype = getattr(torch, name)
    return found
