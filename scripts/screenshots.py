"""Take the pictures of a report that the documents show.

Usage: python scripts/screenshots.py REPORT_HTML OUT_DIR [--full]

Writes report-light.png, report-dark.png and report-phone.png: the first screens of the page, or
with --full all of it. Needs the `dev` extra (playwright) and a Chromium on the PATH.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SHOTS: dict[str, dict[str, Any]] = {
    "report-light": {"viewport": {"width": 1200, "height": 1500}, "color_scheme": "light"},
    "report-dark": {"viewport": {"width": 1200, "height": 1500}, "color_scheme": "dark"},
    "report-phone": {
        "viewport": {"width": 390, "height": 844},
        "color_scheme": "light",
        "device_scale_factor": 2,
        "is_mobile": True,
    },
}


def find_chromium() -> str | None:
    """Return the path of an installed Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextmanager
def open_browser(executable: str) -> Iterator[Any]:
    """Yield a headless browser with a fresh profile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=executable, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def open_report(browser: Any, report: Path, **options: Any) -> Any:
    """Open a report in a page of its own and wait until its charts are drawn."""
    page = browser.new_context(**options).new_page()
    page.goto(report.resolve().as_uri())
    page.wait_for_selector("html[data-ready]", timeout=30_000)
    return page


def take(report: Path, directory: Path, *, full: bool = False) -> list[Path]:
    """Write the three pictures and return their paths."""
    executable = find_chromium()
    if executable is None:
        raise SystemExit("no Chromium found on the PATH: install the chromium package")
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    with open_browser(executable) as browser:
        for name, options in SHOTS.items():
            page = open_report(browser, report, **options)
            path = directory / f"{name}.png"
            page.screenshot(path=path, full_page=full)
            page.context.close()
            paths.append(path)
    return paths


def main() -> int:
    """Read the arguments and take the pictures."""
    parser = argparse.ArgumentParser(description="Take the pictures of a report.")
    parser.add_argument("report", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--full", action="store_true", help="the whole page, not its first screen")
    chosen = parser.parse_args()
    for path in take(chosen.report, chosen.directory, full=chosen.full):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
