"""Loading weights without transformers' own progress bars and advice on the screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from taskloom.errors import MissingExtra


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' bars and anything below an error inside the block; restore it after.

    Raises
    ------
    MissingExtra
        transformers is not installed.
    """
    try:
        from transformers.utils import logging
    except ImportError:
        raise MissingExtra("transformers", "run", purpose="running an encoder") from None
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
