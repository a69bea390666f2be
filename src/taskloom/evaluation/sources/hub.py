"""Rows of a data set on the Hugging Face hub, or in its formats on disk, through ``datasets``."""

from __future__ import annotations

from typing import Any

from taskloom.errors import DataError, MissingExtra, SourceUnreachable
from taskloom.evaluation.rows import Row, SourceContext
from taskloom.registry import register


@register("source")
def hub(
    context: SourceContext,
    /,
    *,
    path: str,
    config: str | None = None,
    revision: str | None = None,
    split: str | None = None,
    data_files: dict[str, str] | None = None,
) -> list[Row]:
    """Read a data set through ``datasets``; sets the column ``split``; class labels become names.

    Parameters
    ----------
    path
        Hub id, or a local directory (relative to the annotation's directory), or a builder of
        ``datasets`` such as ``parquet`` together with ``data_files``.
    config, revision
        Configuration and pinned revision of a data set on the hub.
    split
        Read only this split; otherwise all.

    Raises
    ------
    SourceUnreachable
        The hub cannot be reached and the data set is not in the cache of ``datasets``.
    DataError
        The data set, its configuration or split does not exist, or cannot be read.
    """
    loaded = _load(context, path, config, revision, data_files)
    if split is not None and split not in loaded:
        raise DataError(f"data set {path!r} has no split {split!r}. Splits: {', '.join(loaded)}")
    chosen = {split: loaded[split]} if split else loaded
    return [row for name, part in chosen.items() for row in _rows(name, part)]


def _load(
    context: SourceContext,
    path: str,
    config: str | None,
    revision: str | None,
    data_files: dict[str, str] | None,
) -> dict[str, Any]:
    try:
        import datasets
    except ModuleNotFoundError:
        raise MissingExtra("datasets", "hub", purpose=f"task {context.task!r}") from None
    local = context.folder / path
    files = {k: str(context.folder / v) for k, v in (data_files or {}).items()} or None
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        loaded: dict[str, Any] = datasets.load_dataset(
            str(local) if local.is_dir() else path, config, revision=revision, data_files=files
        )
    except (ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        raise SourceUnreachable(
            f"task {context.task!r}: data set {path!r} cannot be had from the hub ({_line(error)})",
            hint="Check the name and the network; a data set read before is taken from the cache",
        ) from None
    except Exception as error:
        if _is_network(error):
            raise SourceUnreachable(
                f"task {context.task!r}: the hub cannot be reached for {path!r} ({_line(error)})",
                hint="Check the network; a data set read before is taken from the cache",
            ) from None
        raise DataError(
            f"task {context.task!r}: data set {path!r} cannot be read ({_line(error)})"
        ) from None
    finally:
        if shown:
            datasets.enable_progress_bars()
    return loaded


def _is_network(error: BaseException) -> bool:
    """Whether the error, or what caused it, comes from an HTTP library."""
    seen: BaseException | None = error
    while seen is not None:
        if type(seen).__module__.split(".")[0] in ("httpx", "httpcore", "requests", "urllib3"):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _rows(split: str, part: Any) -> list[Row]:
    names = {k: f for k, f in part.features.items() if type(f).__name__ == "ClassLabel"}
    rows: list[Row] = []
    for raw in part:
        row: Row = dict(raw)
        for column, feature in names.items():
            value = raw[column]
            row[column] = feature.int2str(value) if value is not None and value >= 0 else None
        rows.append({**row, "split": split})
    return rows


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
