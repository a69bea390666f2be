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


def pytest_terminal_summary(terminalreporter):
    """List what the battery of checks says of every merging method, if it was run."""
    table: dict[str, dict[str, str]] = {}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            for method, rule, excepted in (
                v for k, v in getattr(report, "user_properties", ()) if k == "battery"
            ):
                mark = "-" if excepted else "+"
                table.setdefault(method, {})[rule] = mark if outcome == "passed" else "F"
    if not table:
        return
    rules = list(dict.fromkeys(rule for row in table.values() for rule in row))
    width = max(len(method) for method in table)
    terminalreporter.section(f"battery: {len(table)} merging methods, {len(rules)} checks")
    numbered = [f"{number} {rule}" for number, rule in enumerate(rules, start=1)]
    for start in range(0, len(numbered), 5):
        terminalreporter.write_line("  ".join(numbered[start : start + 5]))
    terminalreporter.write_line("+ holds   - an exception by what the method is, and breaks   F fails")
    terminalreporter.write_line(" " * width + "".join(f"{n:>3}" for n in range(1, len(rules) + 1)))
    for method in sorted(table):
        marks = "".join(f"{table[method].get(rule, ''):>3}" for rule in rules)
        terminalreporter.write_line(f"{method:<{width}}{marks}")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Give this test alone an empty TASKLOOM_CACHE."""
    root = tmp_path / "taskloom-cache"
    monkeypatch.setenv("TASKLOOM_CACHE", str(root))
    return root
