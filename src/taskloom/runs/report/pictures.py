"""The report's charts as PNG files, for documents that cannot run a page."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path

from taskloom.runs.report import theme
from taskloom.runs.report.charts import Figure, figures
from taskloom.runs.report.drawing import FONT, Palette, hues, renderer
from taskloom.runs.report.index import Index
from taskloom.runs.report.style import FIT, Spec
from taskloom.runs.result import RunResult
from taskloom.store.atomic import atomic_file

WIDTH, SMALL_WIDTH = 640, 300  # pixels at scale 1


def save_pictures(
    result: RunResult,
    directory: str | os.PathLike[str],
    *,
    palette: Palette = "light",
    scale: float = 2.0,
) -> list[Path]:
    """Write every chart of the report as ``<key>.png`` into ``directory`` and return the paths.

    Parameters
    ----------
    result
        What a run found; charts without data are left out.
    palette
        Colours of the page in light or dark.
    scale
        Pixels per CSS pixel.

    Raises
    ------
    MissingExtra
        vl-convert-python is not installed.
    OutputError
        A file cannot be written.
    """
    convert = renderer()
    paths = []
    for figure in (figure for group in figures(Index(result)).values() for figure in group):
        png = convert.vegalite_to_png(picture_spec(figure, hues(palette)), scale=scale)
        path = Path(directory) / f"{figure.key}.png"
        with atomic_file(path) as temp:
            temp.write_bytes(png)
        paths.append(path)
    return paths


def picture_spec(figure: Figure, palette: Mapping[str, str]) -> Spec:
    """Return a chart's specification for a picture: a title, a width and colours of its own."""
    spec = copy.deepcopy(figure.spec)
    if spec["width"] == FIT:
        spec["width"] = SMALL_WIDTH if figure.small else WIDTH
    spec["background"] = theme.colour("card")
    spec["padding"] = 16
    spec["title"] = {
        "text": figure.title,
        "anchor": "start",
        "frame": "group",
        "offset": 14,
        "fontSize": 15,
        "color": theme.colour("ink"),
    }
    spec["config"]["font"] = FONT
    resolved: Spec = theme.resolve(spec, palette)
    return resolved
