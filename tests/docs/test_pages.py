"""Generated pages are up to date, examples in README and docs run, the site needs no network."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest

import taskloom
from taskloom import registry
from taskloom.cli.main import VERBS, invoke
from taskloom.models.build import init_encoder

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from pages import PAGES, code, table  # noqa: E402
from references import main as references  # noqa: E402


def blocks(path: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / path).read_text(), re.S | re.M)


# --- generated pages --------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_page_is_up_to_date(page):
    assert (ROOT / "docs" / page).read_text() == PAGES[page](), "run: make references"


def test_check_mode_writes_nothing_and_fails(tmp_path, capsys):
    assert references(["--check", "reference/errors.md"], docs=tmp_path) == 1
    assert list(tmp_path.iterdir()) == []
    assert "make references" in capsys.readouterr().err
    assert references(["reference/errors.md"], docs=tmp_path) == 0
    assert references(["--check", "reference/errors.md"], docs=tmp_path) == 0


def test_methods_page_names_everything_registered():
    for entry in registry.entries():
        text = PAGES["reference/methods.md"]()
        if entry.family == "merge":
            assert f"| [`{entry.name}`](../methods/{entry.name}.md) |" in text
            text = PAGES[f"methods/{entry.name}.md"]()
        else:
            assert f"{{ #{entry.family}-{entry.name} }}" in text
        for option in entry.schema.model_fields:
            assert f"| `{option}` |" in text


def test_cli_page_has_every_verb():
    text = PAGES["reference/cli.md"]()
    assert all(f"## taskloom {verb}\n" in text for verb in VERBS)


def test_errors_page_has_every_exit_code():
    text = PAGES["reference/errors.md"]()
    for number in (*range(1, 10), 70, 130, 141):
        assert f"| `{number}` |" in text


def test_a_bar_cannot_end_a_cell():
    assert table(["a"], [["x | y"]]) == "| a |\n| --- |\n| x \\| y |\n"
    assert code("int | None") == "`int or None`"
    assert code("") == '`""`'


# --- examples run -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["README.md", "docs/quickstart.md"])
def test_python_examples_run(path, capsys, tmp_path, monkeypatch):
    """As they stand; where one names a text encoder and its tasks, on digits and a tiny transformer."""
    monkeypatch.chdir(tmp_path)
    small = {
        "trec6": "digits_parity",
        "subjectivity": "digits_loop",
        "product_sentiment": "digits_mod3",
        "editorial_sentiment": "digits_ten",
    }
    found = blocks(path)
    assert found
    for block in found:
        if "models/minilm" in block:
            init_encoder({"kind": "vit"}, tmp_path / "models" / "minilm", seed=0)
            for name, stand_in in small.items():
                assert f'"{name}"' in block
                block = block.replace(f'"{name}"', f'"{stand_in}"')
        exec(compile(block, path, "exec"), {})


def test_the_worked_example_of_a_method(tmp_path, capsys):
    """CONTRIBUTING's method file registers, its test passes, the command line runs it."""
    method, test = blocks("CONTRIBUTING.md")
    (tmp_path / "sparse_sum.py").write_text(method)
    spec = importlib.util.spec_from_file_location("sparse_sum", tmp_path / "sparse_sum.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["sparse_sum"] = module  # annotations are resolved through it
    try:
        spec.loader.exec_module(module)
        space: dict[str, object] = {}
        exec(compile(test, "CONTRIBUTING.md", "exec"), space)
        tests = [value for name, value in space.items() if name.startswith("test_")]
        assert len(tests) == 1
        tests[0]()
        assert invoke(["methods", "merge"]) == 0
        assert "sparse_sum" in capsys.readouterr().out
        described = next(m for m in taskloom.methods("merge") if m["name"] == "sparse_sum")
        assert described["composition"] == "keep(0.2, tensor) -> total -> scale(1)"
        density = described["parameters"][0]
        assert density["bounds"] == {"ge": 0, "le": 1}
        assert density["description"].startswith("Share of each task vector's entries")
    finally:
        registry._TABLE.pop(("merge", "sparse_sum"), None)
        del sys.modules["sparse_sum"]


@pytest.mark.parametrize("path", ["README.md", "docs/quickstart.md", "CONTRIBUTING.md"])
def test_every_command_in_the_docs_exists(path):
    text = (ROOT / path).read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for target in re.findall(r"^make ([a-z-]+)", text, re.M):
        assert target in targets
    for verb in re.findall(r"^taskloom ([a-z]+)", text, re.M):
        assert verb in VERBS


def test_local_links_lead_somewhere():
    for path in ["README.md", "CONTRIBUTING.md"]:
        for link in re.findall(r"\]\(([^)#]+)", (ROOT / path).read_text()):
            assert (ROOT / link).exists(), f"{path}: {link}"


# --- the library's names ----------------------------------------------------------------------


def test_every_public_name_resolves():
    for name in taskloom.__all__:
        assert getattr(taskloom, name) is not None


def test_every_verb_is_a_call_of_the_library():
    calls = {
        "bench": "claims",
        "cold": "fuse",
        "data": "select_data",
        "eval": "evaluate",
        "parts": "merge_parts",
        "restore": "restore_task",
    }
    assert {calls.get(verb, verb) for verb in VERBS} <= set(taskloom.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'mrge'"):
        taskloom.mrge  # noqa: B018


def test_importing_the_library_imports_nothing_heavy():
    script = "import sys, taskloom; print(sorted({n.split('.')[0] for n in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0
    for heavy in ("torch", "numpy", "pydantic", "click", "transformers"):
        assert f"'{heavy}'" not in done.stdout


def test_merging_needs_the_light_core_only():
    """What the extras bring is hidden; the merge of plain state dicts works all the same."""
    script = """
import sys
for hidden in ("transformers", "sklearn", "scipy", "pandas", "datasets", "peft", "psutil",
               "huggingface_hub", "jinja2", "vl_convert"):
    sys.modules[hidden] = None
import torch, taskloom
merged = taskloom.merge({"w": torch.zeros(2)}, [{"w": torch.ones(2)}], "ties", density=1.0)
assert merged["w"].tolist() == [1.0, 1.0]
assert len(taskloom.methods()) > 10
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- pins and the site ------------------------------------------------------------------------


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def requirements() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    names = {re.match(r"[A-Za-z0-9._-]+", line)[0] for line in wanted}
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names} - {"taskloom"}


def test_every_direct_dependency_is_pinned_and_explained():
    assert requirements() <= set(pins())
    told = (ROOT / "docs/dependencies.md").read_text().lower().replace("_", "-")
    assert [name for name in requirements() - {"hatchling"} if name not in told] == []


def test_pins_are_pins_and_nothing_else():
    assert pins()["torch"] == "2.13.0"
    for name, version in pins().items():
        assert re.fullmatch(r"[a-z0-9-]+", name)
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), f"{name}: no local version"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    with warnings.catch_warnings():
        done = subprocess.run(
            [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_strictly_and_fetches_nothing(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    loads = re.compile(r'<(?:script|img|iframe|source)[^>]+src="?(https?:)?//', re.I)
    styles = re.compile(r'<link[^>]+rel="?(?:stylesheet|preconnect|preload)[^>]*href="?https?:', re.I)
    for page in pages:
        text = page.read_text()
        assert not loads.search(text), page
        assert not styles.search(text), page
