"""Write docs/systems.md (works, partly, not yet), or check it: references.py for one page."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from references import main

if __name__ == "__main__":
    sys.exit(main([*sys.argv[1:], "systems.md"]))
