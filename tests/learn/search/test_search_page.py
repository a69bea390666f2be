"""The example of docs/search.md runs, and its table says what there is."""

import re
from pathlib import Path

from taskloom import registry

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "search.md").read_text()


def test_the_example_runs(capsys):
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
    space = {}
    exec(compile(block, "docs/search.md", "exec"), space)
    values, loss = capsys.readouterr().out.rsplit(" ", 1)
    assert values.startswith("{'mood': ")
    assert float(loss) < 0.3
    assert set(space["found"].options["values"]) == {"mood", "topic"}


def test_the_table_names_fits():
    names = re.findall(r"^\| `(\w+)` \|", PAGE, re.M)
    assert names == ["lorahub", "evolution", "scale_search", "greedy_soup"]
    assert set(names) <= {entry.name for entry in registry.entries("fit")}


def test_the_default_budgets():
    defaults = {
        name: registry.get("fit", name).schema.model_fields["evaluations"].default
        for name in ("lorahub", "evolution", "scale_search")
    }
    assert defaults == {"lorahub": 40, "evolution": None, "scale_search": None}
