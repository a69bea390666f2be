"""The page: complete, self-contained, escaped, and quiet in a browser."""

import base64
import hashlib
import importlib.util
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import taskloom
from taskloom.errors import OutputError
from taskloom.runs.diff_page import render_diff, write_diff_page
from taskloom.runs.diff_page.page import headline

from .fixture import VOCABULARY, base, pool, tuned, write

SECTIONS = ["found", "norms", "cosines", "conflicts", "ranks", "vocabulary", "made"]
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}"

SCRIPT = Path(__file__).parents[2] / "scripts" / "screenshots.py"
specification = importlib.util.spec_from_file_location("taskloom_screenshots", SCRIPT)
screenshots = importlib.util.module_from_spec(specification)
specification.loader.exec_module(screenshots)


class Outline(HTMLParser):
    """Tags, identifiers, scripts and words of a page; ``open`` is empty if every tag was closed."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.ids, self.scripts, self.words = [], [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for key, value in attrs if key == "id"]
        if tag == "script":
            self.scripts.append("")
        if tag not in {"meta", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.words.append(data)


@pytest.fixture(scope="module")
def looks(tmp_path_factory):
    """One look of every kind: sound, warned of, alone, hostile names, nothing to draw."""
    start, experts = pool(3)
    folder = write(tmp_path_factory.mktemp("diff") / "base", start, VOCABULARY)
    merged = taskloom.merge(start, list(experts.values())[:2], "average")
    hostile = {
        f"layers.0.{HOSTILE}.weight": torch.randn(3, 3),
        f"{HOSTILE}.embed.weight": torch.ones(2, 2),
    }
    return {
        "sound": taskloom.diff(folder, experts),
        "warned": taskloom.diff(folder, {**experts, "merged": merged, "alien": base(5)}),
        "alone": taskloom.diff(start, {"a": experts["a"]}, exact_rank_up_to=4),
        "hostile": taskloom.diff(hostile, {HOSTILE: tuned(hostile, 1), "b": tuned(hostile, 2)}),
        "nothing": taskloom.diff({"n": torch.arange(3)}, {"a": {"n": torch.arange(3)}}),
    }


KINDS = ["sound", "warned", "alone", "hostile", "nothing"]


@pytest.fixture(scope="module")
def pages(looks):
    return {name: render_diff(found) for name, found in looks.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_well_formed_and_complete(pages, kind):
    outline = Outline(pages[kind])
    assert outline.open == []
    assert [name for name in outline.ids if name in SECTIONS] == SECTIONS
    assert len(set(outline.ids)) == len(outline.ids)
    assert sum(tag == "h1" for tag, _ in outline.tags) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_comes_from_elsewhere(pages, kind):
    outline = Outline(pages[kind])
    linked = [a.get("src") or a.get("href") for _, a in outline.tags if "src" in a or "href" in a]
    assert all(link.startswith(("#", "data:")) for link in linked)
    policy = next(a["content"] for tag, a in outline.tags if a.get("http-equiv"))
    for script in outline.scripts[1:]:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy


def specs(page):
    return json.loads(re.search(r'id="chart-specs">(.*?)</script>', page, re.S).group(1))


@pytest.mark.parametrize("kind", KINDS)
def test_every_chart_is_described_and_has_a_place_and_a_table(pages, kind):
    placed = re.findall(r'data-chart="([^"]+)"', pages[kind])
    charts = specs(pages[kind])
    assert sorted(placed) == sorted(charts)
    assert all(chart["description"] for chart in charts.values())
    assert pages[kind].count("<summary>Numbers") == len(charts)


def test_which_charts_there_are(pages):
    assert list(specs(pages["sound"])) == [
        "norm-0", "norm-1", "norm-2", "cosine-pairs", "cosines", "conflict-pairs", "conflicts",
        "rank-0", "rank-1", "rank-2"]  # fmt: skip
    assert list(specs(pages["alone"])) == ["norm-0", "rank-0"]
    assert "Cosines need two experts" in pages["alone"]


def test_cells_say_what_the_result_says(looks, pages):
    found = looks["sound"]
    cells = {(c["row"], c["column"]): c for c in specs(pages["sound"])["norm-1"]["data"]["values"]}
    assert set(cells) == {(r.row, r.column) for r in found.regions}
    for region in found.regions:
        shown = float(cells[region.row, region.column]["text"])
        assert shown == pytest.approx(100 * region.relative_norm[1], abs=0.05)


def test_hostile_names_stay_text(pages):
    page = pages["hostile"]
    assert "<script>alert(1)" not in page
    assert "<img src=x" not in page
    assert "{{7*7}}" in page


def test_warnings_are_on_the_page(looks, pages):
    page = " ".join(Outline(pages["warned"]).words)
    for finding in looks["warned"].findings:
        assert finding.message in page
    assert "No warnings" in pages["sound"]


def test_estimates_stand_with_their_bounds(pages):
    assert "effective ranks that are estimates" in pages["alone"]
    assert "effective ranks that are estimates" not in pages["sound"]


def test_the_headline_says_how_far_and_whether_together(looks):
    assert re.fullmatch(
        r"3 experts moved [\d.]+\s%( to [\d.]+\s%)? from the base; mean cosine of their task vectors "
        r"[\N{MINUS SIGN}\d.]+",
        headline(looks["sound"]),
    )
    assert headline(looks["nothing"]).endswith("no weights other than zero to compare with")


def test_two_experts_with_nothing_to_draw():
    integers = {"n": torch.arange(3)}
    page = render_diff(taskloom.diff(integers, [integers, integers], names=["a", "b"]))
    assert specs(page) == {}


def test_a_failed_write_leaves_nothing(looks, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError):
        write_diff_page(looks["nothing"], tmp_path / "file" / "page.html")
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def test_the_same_look_gives_the_same_bytes(looks, pages):
    assert render_diff(looks["sound"]) == pages["sound"]


@pytest.fixture(scope="module")
def browser():
    if screenshots.find_chromium() is None:
        pytest.skip("no Chromium on the PATH")
    pytest.importorskip("playwright")
    with screenshots.open_browser(screenshots.find_chromium()) as found:
        yield found


@pytest.mark.browser
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [1200, 390])
def test_quiet_and_no_wider_than_the_screen(browser, pages, tmp_path, kind, width):
    path = tmp_path / "page.html"
    path.write_text(pages[kind], encoding="utf-8")
    said, asked = [], []
    page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]", timeout=30_000)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert said == []
    assert asked == [path.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(
        "[...document.querySelectorAll('[data-chart]')].every((c) => c.querySelector('svg'))"
    )
    page.context.close()
