"""Charts as pictures of their own, outside a page: resolved colours, and a font that is everywhere."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from taskloom.errors import MissingExtra, PlanError
from taskloom.runs.report import theme
from taskloom.runs.report.style import Spec, config, fixed
from taskloom.store.atomic import atomic_file

FONT = "Liberation Sans, Arial, sans-serif"
Palette = Literal["light", "dark"]


def check_picture(path: str | os.PathLike[str]) -> Path:
    """Return the path of a picture that can be written.

    Raises
    ------
    PlanError
        A name that ends with neither .png nor .svg.
    """
    target = Path(path)
    if target.suffix not in (".png", ".svg"):
        raise PlanError(f"{target}: expected a name that ends with .png or .svg", hint="Rename it")
    return target


def renderer() -> Any:
    """Return the module that renders charts, or raise `MissingExtra`."""
    try:
        return importlib.import_module("vl_convert")
    except ImportError as error:
        raise MissingExtra("vl-convert-python", "run", purpose="saving pictures") from error


def hues(palette: Palette) -> Mapping[str, str]:
    """Return the colours of the page in light or dark."""
    return theme.LIGHT if palette == "light" else theme.DARK


def still(spec: Spec, palette: Palette = "light") -> Spec:
    """Return a chart on a background, with colours and a font that need no page around it."""
    own = {**spec, "background": theme.colour("card"), "config": {**spec["config"], "font": FONT}}
    resolved: Spec = theme.resolve(own, hues(palette))
    return resolved


def save_chart(spec: Spec, path: str | os.PathLike[str], *, palette: Palette = "light") -> Path:
    """Draw a chart into a PNG file, with two pixels for each of the chart's, or an SVG file.

    Parameters
    ----------
    spec
        A vega-lite specification with the report's ``config``.
    path
        Its suffix says which of the two.

    Raises
    ------
    MissingExtra
        vl-convert-python is not installed.
    PlanError, OutputError
        Another suffix; a file that cannot be written.
    """
    target = check_picture(path)
    convert, drawn = renderer(), still(spec, palette)
    data = (
        convert.vegalite_to_png(drawn, scale=2.0)
        if target.suffix == ".png"
        else convert.vegalite_to_svg(drawn).encode()
    )
    with atomic_file(target) as temporary:
        temporary.write_bytes(data)
    return target


def titled_svg(spec: Spec, title: str, subtitle: str) -> str:
    """Draw marks and axes, which have no head and no ``config``, as SVG under a title, in light.

    The same chart is the same text, whatever was drawn before it.

    Raises
    ------
    MissingExtra
        vl-convert-python is not installed.
    """
    head = {key: value for key, value in fixed([]).items() if key != "data"}
    over = {"text": title, "subtitle": subtitle, "anchor": "start", "offset": 12, "fontSize": 15,
            "subtitleFontSize": 11.5, "color": theme.colour("ink"),
            "subtitleColor": theme.colour("ink-2")}  # fmt: skip
    whole = still({**head, **spec, "padding": 14, "title": over, "config": config()})
    return _renumbered(renderer().vegalite_to_svg(whole))


def _renumbered(svg: str) -> str:
    """Count the names of clipping paths from 1; the renderer goes on where its last picture ended.

    >>> _renumbered('<clipPath id="clip7"/><g clip-path="url(#clip7)"/>')
    '<clipPath id="clip1"/><g clip-path="url(#clip1)"/>'
    """
    names: dict[str, str] = {}
    return re.sub(r"\bclip\d+\b", lambda found: names.setdefault(found[0], f"clip{len(names) + 1}"), svg)
