"""Features of models on single examples, each example run through each model once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.evaluation.data import Examples
from taskloom.runs.auto.ground import Rows
from taskloom.runs.candidates import Candidate
from taskloom.runs.features import Reader

Array = NDArray[np.float32]


@dataclass
class Readings:
    """What models make of rows of the examples; a larger share of rows runs those that are new.

    Parameters
    ----------
    reader
        Its encoder, options and stash.
    examples
        Rows are numbers of these.
    """

    reader: Reader
    examples: Examples
    _known: dict[str, dict[int, Array]] = field(default_factory=dict)
    _changed: set[str] = field(default_factory=set)

    def features(self, candidate: Candidate, rows: Rows) -> Array:
        """Return features (N, D) of rows, in their order."""
        digest = candidate.digest
        if digest not in self._known:
            self._known[digest] = self._stashed(digest)
        known = self._known[digest]
        new = [int(row) for row in dict.fromkeys(rows.tolist()) if row not in known]
        if new:
            known.update(zip(new, self._read(candidate, new), strict=True))
            self._changed.add(digest)
        return np.stack([known[int(row)] for row in rows])

    def keep(self) -> None:
        """Stash what was read since the last time; called when the step that it belongs to is paid.

        So a step that is interrupted leaves nothing that would make it cheaper when it is done again.
        """
        for digest in self._changed & set(self._known):
            known = self._known[digest]
            table = np.column_stack([np.array([*known], dtype=np.float32), np.stack([*known.values()])])
            self.reader.workspace.keep_array("rows", self._key(digest), table)
        self._changed.clear()

    def forget(self, candidate: Candidate) -> None:
        """Let go of what is known of a model that will not be run again."""
        self._known.pop(candidate.digest, None)

    def _key(self, digest: str) -> list[Any]:
        reader = self.reader
        return [digest, self._what, reader.how, reader.options.precision]

    @cached_property
    def _what(self) -> str:
        return self.examples.digest()

    def _stashed(self, digest: str) -> dict[int, Array]:
        found = self.reader.workspace.array("rows", self._key(digest))
        return {} if found is None else {int(line[0]): line[1:] for line in found}

    def _read(self, candidate: Candidate, rows: list[int]) -> Array:
        reader = self.reader
        return reader.encoder.features(
            self.examples.take(rows).inputs,
            weights=candidate.weights(),
            batch_size=reader.options.batch_size,
            precision=reader.options.precision,
        )
