"""Write the generated pages of docs/, or check that they are up to date.

Usage: python scripts/references.py [--check] [PAGE ...]
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from pages import PAGES, ROOT


def main(words: list[str] | None = None, docs: Path = ROOT / "docs") -> int:
    """Write or check; return 1 if a page is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if out of date")
    parser.add_argument("page", nargs="*", help=f"one of {', '.join(PAGES)}; default all")
    asked = parser.parse_args(words)
    stale = 0
    for name in asked.page or PAGES:
        path, new = docs / name, PAGES[name]()
        old = path.read_text("utf-8") if path.exists() else ""
        if new == old:
            continue
        if asked.check:
            stale = 1
            print(f"docs/{name} is out of date; run: make references", file=sys.stderr)
            changes = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
            print("\n".join([*changes][:20]), file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(new, "utf-8")
            print(f"wrote docs/{name}")
    return stale | _leftover(docs, check=asked.check)


def _leftover(docs: Path, *, check: bool) -> int:
    """Take away pages of methods that are no more; with ``check`` only say that they are there."""
    for path in sorted((docs / "methods").glob("*.md")):
        if f"methods/{path.name}" in PAGES:
            continue
        if check:
            print(f"docs/methods/{path.name} is of no method; run: make references", file=sys.stderr)
            return 1
        path.unlink()
        print(f"removed docs/methods/{path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
