"""What every test runs under: no network, a cache of its own, one thread, seeded searches."""

from __future__ import annotations

import atexit
import os
import signal
import tempfile

import pytest
from hypothesis import settings

# Read once by torch and the Hugging Face libraries, so set before anything imports them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# Not a fixture: the doctests of src/ lie outside this folder and must not touch the user's cache.
_CACHE = tempfile.TemporaryDirectory(prefix="taskloom-tests-")
atexit.register(_CACHE.cleanup)
os.environ["TASKLOOM_CACHE"] = _CACHE.name

# A shell that starts the tests in the background has them ignore Ctrl-C, and their children with them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Give this test alone an empty TASKLOOM_CACHE."""
    root = tmp_path / "taskloom-cache"
    monkeypatch.setenv("TASKLOOM_CACHE", str(root))
    return root
