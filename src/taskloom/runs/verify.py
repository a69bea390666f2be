"""``taskloom.verify``: a merged model or parts of tasks against the record of how they were made."""

from __future__ import annotations

from pathlib import Path

from taskloom.merging.target import named
from taskloom.merging.verify import Rebuild, Verified, read_record
from taskloom.merging.verify import verify as verify_merge
from taskloom.merging.verify_parts import is_parts, rebuild_task, verify_parts
from taskloom.progress import Progress, silent


def verify(
    directory: str | Path,
    *,
    everything: bool = False,
    sample: int = 8,
    threads: int | None = None,
    progress: Progress = silent,
) -> Verified:
    """Check a merged model against its ``taskloom.json``, or parts of tasks against ``parts.json``.

    Every file and every tensor is held against its digest. Then tensors are made again from the
    sources and compared byte for byte: a sample (thresholds of whole models are taken as recorded), or
    all of them (thresholds are measured again). Merges of a mergekit file are made again from the text
    in the record, restored models from their parts. Parts are made again as a whole or not at all
    (``everything``), beside the folder.

    Parameters
    ----------
    directory
        A merged model (or its address in an object store), a restored one, or parts of tasks.
    everything
        Make all tensors again.
    sample
        How many otherwise; chosen by the model's digest.
    threads
        As many as there are processors if None.
    progress
        Told how many tensors are done.

    Raises
    ------
    IntegrityError
        A file or tensor that is not what was recorded, or that the sources no longer give, by name.
    CheckpointError
        There is no ``taskloom.json`` or ``parts.json``, or the sources are gone or do not fit any more.
    """
    place = named(directory)
    if isinstance(place, Path) and is_parts(place):
        return verify_parts(directory, everything=everything, threads=threads, progress=progress)
    rebuild: Rebuild | None = None
    sources = read_record(place)["sources"]
    if "parts" in sources:
        rebuild = rebuild_task
    if "mergekit" in sources:
        from taskloom.runs.mergekit.record import rebuild as rebuild_mergekit

        rebuild = rebuild_mergekit
    return verify_merge(
        directory,
        everything=everything,
        sample=sample,
        threads=threads,
        rebuild=rebuild,
        progress=progress,
    )
