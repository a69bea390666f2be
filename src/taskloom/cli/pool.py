"""``taskloom pool``: open experts of one base and check that they fit."""

from __future__ import annotations

import taskloom
from taskloom.cli import options, output


@options.verb(
    "pool",
    example="taskloom pool --base models/base --expert spam=out/spam --expert out/trec6",
)
@options.pool_options
@options.allow_pickle
@options.as_json
def command(base: str, experts: tuple[str, ...], allow_pickle: bool, as_json: bool) -> None:
    """Open experts of one base, check that they fit, and list them."""
    sources, names = options.named(experts)
    opened = taskloom.pool(base, sources, names=names, allow_pickle=allow_pickle)
    rows = [
        {
            "name": expert.name,
            "task": expert.task,
            "path": expert.checkpoint.label,
            "tensors": len(expert.checkpoint.tensors),
            "parameters": sum(info.numel for info in expert.checkpoint.tensors.values()),
            "bytes": sum(info.nbytes for info in expert.checkpoint.tensors.values()),
        }
        for expert in opened.experts
    ]
    if as_json:
        output.print_json({"base": base, "experts": rows})
        return
    output.print_table(
        f"{len(rows)} experts of {base}; names, shapes and dtypes agree",
        ["expert", "task", "tensors>", "parameters>", "MB>", "path"],
        [
            [
                row["name"],
                row["task"],
                row["tensors"],
                f"{row['parameters']:,}",
                f"{row['bytes'] / 1e6:.1f}",
                row["path"],
            ]
            for row in rows
        ],
    )
