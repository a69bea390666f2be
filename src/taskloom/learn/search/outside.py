"""Libraries of optimisers: imported late, quiet, and apart from everybody else's random numbers."""

from __future__ import annotations

import importlib
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from taskloom.errors import MissingExtra


def library(name: str, *, purpose: str) -> Any:
    """Import an optional package.

    Raises
    ------
    MissingExtra
        It is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(name, "search", purpose=purpose) from error


class Aside:
    """Global random numbers of its own, for code that draws from numpy's or Python's.

    Inside ``with aside.here():`` the two global generators continue where the last such block left them;
    outside they are what they were. Warnings inside are not the user's and are dropped.
    """

    def __init__(self, seed: int) -> None:
        self._python = random.Random(seed).getstate()
        self._numpy: Any = np.random.RandomState(seed).get_state()

    @contextmanager
    def here(self) -> Iterator[None]:
        """Run a block with these generators in place of the global ones."""
        outer = random.getstate(), np.random.get_state()
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            self._python, self._numpy = random.getstate(), np.random.get_state()
            random.setstate(outer[0])
            np.random.set_state(outer[1])
