"""Where an unfinished fit stands, in one file that is replaced whole: the same call goes on from it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from taskloom import __version__
from taskloom.errors import IntegrityError
from taskloom.learn.fitted import Step
from taskloom.learn.problem import Problem
from taskloom.learn.search.scorer import context_of
from taskloom.store.atomic import atomic_file
from taskloom.store.cache import canonical_digest

if TYPE_CHECKING:
    from taskloom.learn.coefficients.descend import Descent

#: seconds between two saves; what a killed process loses at most
EVERY = 5.0


@dataclass(frozen=True)
class Stand:
    """Everything that the next step depends on.

    Attributes
    ----------
    tensors
        Raw numbers, moments of the optimiser, tables that are kept.
    plain
        JSON-ready: places in the examples, what was watched, what was best.
    trace
        Every step so far.
    """

    tensors: Mapping[str, Tensor]
    plain: Mapping[str, Any]
    trace: tuple[Step, ...]


class Unfinished:
    """The file of a fit that has not ended.

    Parameters
    ----------
    path
        None keeps nothing.
    key
        Of what decides the fit; a file of something else is refused.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self._path = path
        self._key = key
        self._saved = time.monotonic()

    @classmethod
    def of(cls, on: Problem, how: Descent, name: str) -> Unfinished:
        """Return the file of a fit in the problem's folder; nothing is kept if it has none."""
        if on.unfinished is None:
            return cls(None, "")
        key = key_of(on, how, name)
        return cls(on.unfinished / f"{name}-{key[:32]}.safetensors", key)

    def load(self) -> Stand | None:
        """Return what was saved last; None if there is nothing.

        Raises
        ------
        IntegrityError
            The file is damaged.
        """
        from safetensors import SafetensorError, safe_open

        if self._path is None or not self._path.is_file():
            return None
        try:
            with safe_open(self._path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != self._key:
                    raise KeyError("key")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            table = json.loads(metadata["plain"])
            trace = tuple(Step(*each) for each in table.pop("trace"))
            return Stand(tensors, table, trace)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise IntegrityError(
                f"{self._path}: expected the state of this fit, but it is damaged: {error}",
                hint="Remove the file to fit from the beginning",
            ) from None

    def save(self, stand: Stand) -> None:
        """Replace what was saved.

        Raises
        ------
        OutputError
            The disk is full, or the folder cannot be written.
        """
        from safetensors.torch import save_file

        if self._path is None:
            return
        trace = [[each.step, each.loss, each.seconds, dict(each.values)] for each in stand.trace]
        metadata = {"key": self._key, "plain": json.dumps({**stand.plain, "trace": trace})}
        with atomic_file(self._path) as temporary:
            save_file({n: t.contiguous() for n, t in stand.tensors.items()}, temporary, metadata)
        self._saved = time.monotonic()

    def save_in_time(self, stand: Callable[[], Stand]) -> None:
        """Save if the last time is `EVERY` seconds ago."""
        if self._path is not None and time.monotonic() - self._saved >= EVERY:
            self.save(stand())

    def end(self) -> None:
        """Remove what was saved: the fit has ended."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    @property
    def kept(self) -> bool:
        """Whether anything is kept at all."""
        return self._path is not None


def key_of(on: Problem, how: Descent, name: str) -> str:
    """Return a digest of all that decides the numbers of a fit; threads do not."""
    settings = {key: value for key, value in asdict(how).items() if key != "threads"}
    checked: Any = None
    if how.check_every is not None:
        checked = context_of(replace(on, batches=on.validation))["examples"]
    versions = [__version__, str(torch.__version__)]
    return canonical_digest([name, settings, context_of(on), dict(on.own), checked, on.seed, versions])
