"""The page in headless Chromium: errors, requests, widths, keys, themes, paper."""

import importlib.util
from pathlib import Path

import pytest

from taskloom.runs.report import write_report

from .fixture import empty, hostile, realistic

SCRIPT = Path(__file__).parents[2] / "scripts" / "screenshots.py"
specification = importlib.util.spec_from_file_location("taskloom_screenshots", SCRIPT)
screenshots = importlib.util.module_from_spec(specification)
specification.loader.exec_module(screenshots)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(screenshots.find_chromium() is None, reason="no Chromium on the PATH"),
]
DESK = {"viewport": {"width": 1200, "height": 900}}
OUTSIDE = """[...document.querySelectorAll('.chart:not(.wide) svg text')].filter((text) => {
    const card = text.closest('.card').getBoundingClientRect();
    const box = text.getBoundingClientRect();
    return box.right > card.right || box.left < card.left;
}).map((text) => text.textContent)"""
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("playwright")
    with screenshots.open_browser(screenshots.find_chromium()) as found:
        yield found


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    return {f.__name__: write_report(f(), folder / f"{f.__name__}.html")
            for f in (realistic, hostile, empty)}  # fmt: skip


@pytest.fixture
def page(browser, reports):
    found = screenshots.open_report(browser, reports["realistic"], **DESK)
    yield found
    found.context.close()


@pytest.mark.parametrize("name", ["realistic", "hostile", "empty"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_quiet_offline_and_no_wider_than_the_screen(browser, reports, name, size):
    said, asked = [], []
    page = browser.new_context(**size).new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append("a script of the data ran"))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(reports[name].as_uri())
    page.wait_for_selector("html[data-ready]", timeout=30_000)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert said == []
    assert asked == [reports[name].as_uri()]
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= size["viewport"]["width"]
    assert page.evaluate(OUTSIDE) == []
    drawn = page.evaluate(
        "[...document.querySelectorAll('[data-chart]')].every((c) => c.querySelector('svg'))"
    )
    assert drawn
    page.context.close()


def test_charts_fit_their_places_and_are_described(page):
    wrong = page.evaluate("""[...document.querySelectorAll('.chart:not(.wide)')].filter((c) => {
        const svg = c.querySelector('svg');
        return svg.getBoundingClientRect().width > c.clientWidth + 1;
    }).map((c) => c.dataset.chart)""")
    assert wrong == []
    labels = page.eval_on_selector_all(
        "[data-chart] svg",
        "all => all.map((svg) => svg.closest('[data-chart]').innerHTML.includes('aria-label'))",
    )
    assert all(labels)


def test_tab_reaches_everything_that_acts(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    expected = page.evaluate("""(() => {
        const closed = (e) => e.closest('details:not([open])') && e.tagName !== 'SUMMARY';
        const seen = (e) => e.checkVisibility() && !closed(e);
        const all = document.querySelectorAll('a[href], button, summary, [tabindex="0"]');
        return [...all].filter(seen).length;
    })()""")
    page.evaluate("window.reached = new Set([document.activeElement])")
    for _ in range(expected + 30):
        page.keyboard.press("Tab")
        page.evaluate("window.reached.add(document.activeElement)")
    missed = page.evaluate("""(() => {
        const closed = (e) => e.closest('details:not([open])') && e.tagName !== 'SUMMARY';
        const seen = (e) => e.checkVisibility() && !closed(e);
        return [...document.querySelectorAll('a[href], button, summary, [tabindex="0"]')]
            .filter((e) => seen(e) && !window.reached.has(e)).map((e) => e.outerHTML.slice(0, 90));
    })()""")
    assert missed == []


def test_focus_is_visible(page):
    page.locator("#theme").focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert style == "solid"


def test_tables_sort_by_keyboard(page):
    table = page.locator("#leaderboard table")
    head = table.locator("thead button").nth(1)
    head.focus()
    page.keyboard.press("Enter")
    assert table.locator("th").nth(1).get_attribute("aria-sort") == "descending"
    falling = table.locator("tbody tr td:nth-child(2)").all_inner_texts()
    page.keyboard.press("Enter")
    assert table.locator("th").nth(1).get_attribute("aria-sort") == "ascending"
    rising = table.locator("tbody tr td:nth-child(2)").all_inner_texts()
    assert [float(x) for x in falling] == sorted(map(float, rising), reverse=True)
    assert "ascending" in page.inner_text("#said")


def test_the_button_turns_page_and_charts_dark(page):
    def fill():
        return page.evaluate("""(() => [getComputedStyle(document.body).backgroundColor,
            ...['.mark-rect path', '.mark-text text'].map((mark) =>
                getComputedStyle(document.querySelector(`[data-chart=transfer] ${mark}`)).fill)])()""")

    light = fill()
    page.click("#theme")
    dark = fill()
    assert all(a != b for a, b in zip(light, dark, strict=True))
    assert "light" in page.get_attribute("#theme", "aria-label")
    page.emulate_media(media="print")
    assert fill()[1:] == light[1:]


def test_copy_puts_the_snippet_on_the_clipboard(browser, reports):
    page = screenshots.open_report(
        browser, reports["realistic"], **DESK, permissions=["clipboard-read", "clipboard-write"]
    )
    page.locator("#load .copy").first.click()
    page.wait_for_function("document.getElementById('said').textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()") == realistic().handovers[0].snippet
    page.context.close()


def test_printing_makes_pages(page):
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_the_script_takes_three_pictures(reports, tmp_path, browser):
    for name, options in screenshots.SHOTS.items():
        page = screenshots.open_report(browser, reports["realistic"], **options)
        page.screenshot(path=tmp_path / f"{name}.png")
        page.context.close()
    assert all((tmp_path / f"{name}.png").stat().st_size > 20_000 for name in screenshots.SHOTS)
    assert set(screenshots.SHOTS) == {"report-light", "report-dark", "report-phone"}
