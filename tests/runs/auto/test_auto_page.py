"""The page of taskloom auto in headless Chromium: its charts are drawn, and nothing complains."""

import importlib.util
from pathlib import Path

import pytest

import taskloom
from taskloom.runs.plan import Limits

SCRIPT = Path(__file__).parents[3] / "scripts" / "screenshots.py"
specification = importlib.util.spec_from_file_location("taskloom_screenshots_auto", SCRIPT)
screenshots = importlib.util.module_from_spec(specification)
specification.loader.exec_module(screenshots)


@pytest.mark.browser
@pytest.mark.skipif(screenshots.find_chromium() is None, reason="no Chromium on the PATH")
def test_charts_are_drawn_and_nothing_complains(world, paced, tmp_path):
    pytest.importorskip("playwright")
    found = taskloom.auto(
        world.tasks["two"],
        world.base,
        world.experts,
        minutes=2.2,
        output=tmp_path / "out",
        limits=Limits(train=160, validation=72, test=60),
        methods=["task_arithmetic"],
        clock=paced(),
    )
    said = []
    with screenshots.open_browser(screenshots.find_chromium()) as browser:
        for width in (1200, 390):
            page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.goto(Path(found.page).resolve().as_uri())
            page.wait_for_selector("html[data-ready]", timeout=30_000)
            charts = "[...document.querySelectorAll('[data-chart]')]"
            drawn = page.evaluate(f"{charts}.map((chart) => chart.querySelector('svg') !== null)")
            assert drawn
            assert all(drawn)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.context.close()
    assert said == []
