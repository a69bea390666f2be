"""``taskloom.verify``: a merged model against its record, whatever it was made of."""

from __future__ import annotations

from pathlib import Path

from taskloom.merging.verify import Rebuild, Verified, read_record
from taskloom.merging.verify import verify as verify_merge
from taskloom.progress import Progress, silent


def verify(
    directory: str | Path,
    *,
    everything: bool = False,
    sample: int = 8,
    threads: int | None = None,
    progress: Progress = silent,
) -> Verified:
    """Check a merged model against its ``taskloom.json``.

    Every file and every tensor is held against its digest. Then tensors are made again from the
    sources and compared byte for byte: a sample (thresholds of whole models are taken as recorded), or
    all of them (thresholds are measured again). Merges of a mergekit file are made again from the text
    in the record.

    Parameters
    ----------
    directory
        A merged model.
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
        There is no ``taskloom.json``, or the sources are gone or do not fit any more.
    """
    rebuild: Rebuild | None = None
    if "mergekit" in read_record(Path(directory))["sources"]:
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
