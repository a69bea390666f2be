"""The rounds of a loop on disk: what is finished is never done again, whatever ends the process.

Round 7 is the directory ``round-007`` and, written after it, ``round-007.json``: a round is finished
when its record is there. Whoever works in the folder holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskloom.errors import IntegrityError, NumericalError, OutputError, PlanError
from taskloom.progress import Progress, silent
from taskloom.runs.loops.result import Round
from taskloom.runs.loops.workshop import Reading, Workshop
from taskloom.store.atomic import write_json
from taskloom.store.safetensors_dir import SafetensorsCheckpoint


@dataclass(frozen=True)
class Made:
    """What a turn returns: what was merged into the model it wrote, and the steps that took."""

    merged: tuple[Mapping[str, Any], ...]
    steps: int
    tried: tuple[Mapping[str, Any], ...] = ()


#: (number, start, where to write the model) -> what was made
Turn = Callable[[int, Path, Path], Made]


class Journal:
    """The folder of a loop.

    Parameters
    ----------
    folder
        Is made.
    start
        Directory of the model that the first round starts from.
    keep
        Keep the models of all rounds; otherwise that of the last one only.
    progress
        Told how many rounds are done.
    """

    def __init__(
        self, folder: Path, start: Path, *, keep: bool = False, progress: Progress = silent
    ) -> None:
        self.folder = folder
        self._start = start
        self._keep = keep
        self._progress = progress

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder for this process; a lock that ends with it.

        Raises
        ------
        OutputError
            Another process works in the folder, or it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / ".running").open("w")
        except OSError as error:
            raise OutputError(
                f"{self.folder}: the folder of the loop cannot be written: {error.strerror}",
                hint="Let TASKLOOM_CACHE name a folder that can be written",
            ) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise OutputError(
                    f"{self.folder}: another process carries out the same loop", hint="Wait for it"
                ) from None
            yield

    def model(self, number: int) -> Path:
        """Return where the model of a round is; round 0 is the start."""
        return self.folder / f"round-{number:03d}" if number else self._start

    def record(self, number: int) -> Round | None:
        """Return a finished round, None if it is not."""
        try:
            return Round.of_plain(json.loads(self._note(number).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def play(
        self, shop: Workshop, turn: Turn, rounds: int, judged: Sequence[str] | None = None
    ) -> tuple[Round, ...]:
        """Carry out the rounds that are not finished; return all of them, the start as round 0.

        Parameters
        ----------
        shop
            Scores the model of every round.
        turn
            Makes one.
        rounds
            How many there are to be.
        judged
            Tasks to score; all if None.

        Raises
        ------
        IntegrityError
            The model that the next round starts from is not the one that was recorded.
        PlanError
            Fewer rounds than are done, when only the last model was kept.
        NumericalError
            A loss is not finite; the message names the round, and the rounds before it are kept.
        """
        found = [self.record(0) or self._keep_record(0, Made((), 0), shop, judged, time.perf_counter())]
        while len(found) <= rounds:
            done = self.record(len(found))
            if done is None:
                break
            found.append(done)
        if len(found) > 1:
            self._check(found[-1])
        self._progress("rounds", len(found) - 1, rounds)
        while len(found) <= rounds:
            number, begun = len(found), time.perf_counter()
            try:
                made = turn(number, self.model(number - 1), self.model(number))
            except NumericalError as error:
                raise NumericalError(
                    f"round {number} of {rounds}: {error}; the {number - 1} rounds before it are kept"
                ) from error
            found.append(self._keep_record(number, made, shop, judged, begun))
            shop.clear()
            if not self._keep and number > 1:
                shutil.rmtree(self.model(number - 1), ignore_errors=True)
            self._progress("rounds", number, rounds)
        return tuple(found)

    def _note(self, number: int) -> Path:
        return self.folder / f"round-{number:03d}.json"

    def _keep_record(
        self, number: int, made: Made, shop: Workshop, judged: Sequence[str] | None, begun: float
    ) -> Round:
        reading: Reading = shop.read(self.model(number), judged)
        done = Round(
            number=number,
            digest=SafetensorsCheckpoint(self.model(number)).digest(),
            merged=made.merged,
            scores=reading.scores,
            steps=made.steps,
            seconds=round(time.perf_counter() - begun, 3),
            tried=made.tried,
        )
        write_json(self._note(number), done.plain())
        return done

    def _check(self, last: Round) -> None:
        model = self.model(last.number)
        if not model.is_dir() and self.record(last.number + 1) is not None:
            raise PlanError(
                f"round {last.number} is long done, and its model was not kept",
                hint="Ask for as many rounds as before, or more; keep the models of all rounds (keep)",
            )
        digest = SafetensorsCheckpoint(model).digest() if model.is_dir() else "nothing"
        if digest != last.digest:
            raise IntegrityError(
                f"{model}: expected the model of round {last.number} ({last.digest[:12]}), found "
                f"{digest[:12]}",
                hint=f"Remove {self.folder} to start from the beginning",
            )
