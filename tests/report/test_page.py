import base64
import hashlib
import json
import re
import sys
from html.parser import HTMLParser

import pytest

from taskloom.errors import MissingExtra, OutputError
from taskloom.runs.report import page as module
from taskloom.runs.report import render, save_pictures, write_report

from .fixture import HOSTILE, empty, hostile, realistic

SECTIONS = ["found", "guard", "leaderboard", "scores", "transfer", "rankings", "sweeps", "recipes",
            "tasks", "load", "lock"]  # fmt: skip
VOID = {"meta", "link", "br", "img", "input"}


class Outline(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.ids, self.scripts, self.words = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for key, value in attrs if key == "id"]
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.words.append(data)


@pytest.fixture(scope="module")
def pages():
    return {make.__name__: render(make()) for make in (realistic, hostile, empty)}


@pytest.fixture(scope="module")
def outlines(pages):
    return {name: Outline(text) for name, text in pages.items()}


@pytest.mark.parametrize("name", ["realistic", "hostile", "empty"])
def test_well_formed_and_complete(outlines, name):
    outline = outlines[name]
    assert outline.open == []
    assert [i for i in outline.ids if i in SECTIONS] == SECTIONS
    assert len(set(outline.ids)) == len(outline.ids)
    assert [tag for tag, _ in outline.tags].count("h1") == 1


@pytest.mark.parametrize("name", ["realistic", "hostile", "empty"])
def test_nothing_is_loaded_from_elsewhere(outlines, name):
    for tag, attributes in outlines[name].tags:
        assert tag not in {"img", "iframe", "object", "embed", "base"}
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith(("#", "data:,"))


@pytest.mark.parametrize("name", ["realistic", "hostile", "empty"])
def test_only_named_scripts_may_run(outlines, name):
    policy = next(a["content"] for t, a in outlines[name].tags if a.get("http-equiv"))
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in outlines[name].scripts[1:]
    ]
    assert hashes == allowed
    assert policy.startswith("default-src 'none';")
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]


def test_hostile_text_is_shown_and_never_markup(outlines):
    outline = outlines["hostile"]
    assert len(outline.scripts) == 3
    assert not any("onerror" in attributes for _, attributes in outline.tags)
    assert HOSTILE in "".join(outline.words)
    json.loads(outline.scripts[0])


def test_specs_cannot_end_their_element(pages):
    block = pages["hostile"].split('id="chart-specs">')[1].split("</script>")[0]
    assert not set("<>&") & set(block)
    assert "NaN" not in block
    assert "Infinity" not in block


def test_sentence_first(outlines):
    text = " ".join(" ".join(outlines["realistic"].words).split())
    result = realistic()
    assert text.index(result.headline) < text.rindex(result.targets[0].sentence)
    assert text.index(result.targets[1].sentence) < text.index("What may be handed over")


def test_refusals_and_negative_transfer_are_said(outlines):
    text = " ".join(" ".join(outlines["realistic"].words).split())
    assert "Refused. Negative transfer: 6 merges lose to Expert: Emotion" in text
    assert "Negative transfer on the test split" in text


def test_a_target_that_keeps_the_base_shows_no_interval():
    result = realistic()
    kept = result.targets[0].model_copy(
        update={"reuse": "base", "gain": 0.0, "gain_low": 0.0, "gain_high": 0.0}
    )
    text = render(result.model_copy(update={"targets": [kept]}))
    assert "the base is kept" in text
    assert "the interval holds zero" not in text
    assert 'class="span"' not in text


@pytest.mark.parametrize("skipped", [[], ["8 experts"]])
def test_time_of_a_run_that_went_on_says_so(skipped):
    result = realistic()
    lock = result.lock.model_copy(update={"skipped": skipped})
    assert ("after earlier runs" in render(result.model_copy(update={"lock": lock}))) == bool(skipped)


def test_every_chart_has_a_place_and_every_place_a_chart(outlines):
    for outline in outlines.values():
        places = [a["data-chart"] for _, a in outline.tags if "data-chart" in a]
        specs = json.loads(outline.scripts[0])
        assert sorted(places) == sorted(specs)
        assert all(spec["description"] for spec in specs.values())


def test_tables_are_captioned_scrollable_and_sortable(outlines):
    tags = outlines["realistic"].tags
    count = [tag for tag, _ in tags].count
    assert count("table") == count("caption") > 5
    regions = [a for _, a in tags if a.get("class") == "scroll"]
    assert all(a["tabindex"] == "0" and a["role"] == "region" and a["aria-label"] for a in regions)
    assert sum(a.get("aria-sort") == "none" for _, a in tags) == sum(
        a.get("class") == "sort" for _, a in tags
    )


def test_an_empty_run_says_what_is_missing(outlines):
    text = " ".join(outlines["empty"].words)
    for said in ("no target task", "swept no option", "Nothing was handed over", "No verdict"):
        assert said in text


def test_same_result_same_page(pages):
    assert render(realistic()) == pages["realistic"]


def test_size(pages):
    assert len(pages["realistic"].encode()) < 1_500_000


def test_written_whole(tmp_path):
    path = write_report(empty(), tmp_path / "report.html")
    assert path.read_text(encoding="utf-8") == render(empty())
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_report(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr(module, "render", lambda result: "\ud800")  # cannot be encoded
    with pytest.raises(UnicodeEncodeError):
        write_report(empty(), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_report(empty(), tmp_path / "file" / "report.html")


@pytest.mark.parametrize("package", ["jinja2", "vl_convert"])
def test_missing_packages_are_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    module._bundle.cache_clear()
    with pytest.raises(MissingExtra, match=package.replace("_", ".")):
        render(empty())


def test_pictures_name_the_missing_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(MissingExtra, match="vl-convert"):
        save_pictures(empty(), tmp_path)
