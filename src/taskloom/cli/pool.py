"""``taskloom pool``: open experts of one base and check that they fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import taskloom
from taskloom.cli import options, output

if TYPE_CHECKING:
    from taskloom.store.pool import Expert


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
    rows = [_described(expert) for expert in opened.experts]
    if as_json:
        output.print_json({"base": base, "experts": rows})
        return
    output.print_table(
        f"{len(rows)} experts of {base}; names, shapes and dtypes agree",
        ["expert", "task", "tensors>", "parameters>", "bytes>", "path"],
        [list(row.values()) for row in rows],
    )


def _described(expert: Expert) -> dict[str, Any]:
    infos = expert.checkpoint.tensors.values()
    return {
        "name": expert.name,
        "task": expert.task,
        "tensors": len(infos),
        "parameters": sum(info.numel for info in infos),
        "bytes": sum(info.nbytes for info in infos),
        "path": expert.checkpoint.label,
    }
