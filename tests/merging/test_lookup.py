"""One method is found without importing all others."""

import subprocess
import sys

import pytest

from taskloom import registry
from taskloom.errors import UnknownName

CODE = """
import sys
from taskloom import registry
found = [registry.get("merge", name).name for name in ("dare_ties", "slerp", "breadcrumbs")]
loaded = {m.rpartition(".")[2] for m in sys.modules if m.startswith("taskloom.merging.methods.")}
print(*found, *sorted(loaded & {"dare", "slerp", "breadcrumbs", "karcher", "regmean", "pcb"}))
print(registry.get("merge", "magnitude_pruning").name, "taskloom.merging.methods.karcher" in sys.modules)
print(len(registry.entries("merge")) > 30)
"""


def test_only_the_module_of_the_name_is_imported():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    first, second, third = done.stdout.splitlines()
    assert first.split() == ["dare_ties", "slerp", "breadcrumbs", "breadcrumbs", "dare", "slerp"]
    assert second.split()[0] == "magnitude_pruning"
    assert third == "True"


@pytest.mark.parametrize("name", ["", "tiess", "ties.x", "..", "dare_", "a b"])
def test_names_that_are_none(name):
    with pytest.raises(UnknownName, match="merging method"):
        registry.get("merge", name)


def test_every_registered_name_is_found():
    for entry in registry.entries():
        assert registry.get(entry.family, entry.name) is entry
