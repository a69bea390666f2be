"""Two palettes, one source: the page's CSS variables and the colours of the pictures.

Charts name their colours as CSS variables, ``var(--ink)``, so that a browser re-themes them without
drawing them again and prints them light. A picture has no style sheet: ``resolve`` puts the
palette's colours in. Blue against orange and a shape for each kind keep the charts readable for the
colour-blind (Okabe and Ito, "Color Universal Design", 2008); text in heatmap cells keeps a contrast
of at least 4.5 on every shade.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LIGHT: Mapping[str, str] = {
    "page": "#f5f5f1",
    "card": "#ffffff",
    "sunk": "#f0f1ee",
    "ink": "#18202c",
    "ink-2": "#4a5565",
    "line": "#d9dde3",
    "grid": "#e6e8ec",
    "link": "#0a5a9c",
    "base": "#626c7a",
    "expert": "#0069a8",
    "merge": "#b84a00",
    "faint": "#a9b2be",
    "good": "#0b6651",
    "good-wash": "#e3f3ee",
    "bad": "#a1310a",
    "bad-wash": "#fdebe2",
    "even-wash": "#eceef2",
    "heat-high": "#62aade",
    "heat-low": "#f0924f",
    "heat-mid": "#f4f4f0",
    "heat-ink": "#111823",
}

DARK: Mapping[str, str] = {
    "page": "#0f1319",
    "card": "#181e27",
    "sunk": "#11161d",
    "ink": "#e9edf3",
    "ink-2": "#aeb8c7",
    "line": "#323c4a",
    "grid": "#28313d",
    "link": "#85c1f7",
    "base": "#a8b2c0",
    "expert": "#62b6f3",
    "merge": "#f79a4f",
    "faint": "#5d6979",
    "good": "#66d1b3",
    "good-wash": "#12312b",
    "bad": "#ff9d74",
    "bad-wash": "#3a1f14",
    "even-wash": "#252d39",
    "heat-high": "#1e6cb0",
    "heat-low": "#ad4c0c",
    "heat-mid": "#222935",
    "heat-ink": "#f3f6fa",
}

_VARIABLE = re.compile(r"var\(--([\w-]+)\)")
_MIX = re.compile(r"color-mix\(in srgb, var\(--([\w-]+)\) (\d+)%, var\(--([\w-]+)\)\)")
_COLOUR_FIELDS = ("fill",)


def colour(name: str) -> str:
    """Name a palette colour as a CSS variable.

    >>> colour("ink")
    'var(--ink)'
    """
    return f"var(--{name})"


def shade(strength: float) -> str:
    """Mix the colour of a heatmap cell: 1 is the high end, 0 the middle, -1 the low end.

    >>> shade(-0.5)
    'color-mix(in srgb, var(--heat-low) 50%, var(--heat-mid))'
    """
    end = "heat-high" if strength >= 0 else "heat-low"
    share = round(100 * min(1.0, abs(strength)))
    return f"color-mix(in srgb, var(--{end}) {share}%, var(--heat-mid))"


def css() -> str:
    """Return the rules that set the palettes: light, dark by preference or by choice, light on paper."""
    light, dark = _declarations(LIGHT, "light"), _declarations(DARK, "dark")
    return (
        f":root{{{light}}}\n"
        f"@media (prefers-color-scheme: dark){{:root:not([data-theme=light]){{{dark}}}}}\n"
        f":root[data-theme=dark]{{{dark}}}\n"
        f"@media print{{:root,:root:not([data-theme=light]),:root[data-theme=dark]{{{light}}}}}\n"
    )


def resolve(spec: Any, palette: Mapping[str, str]) -> Any:
    """Return ``spec`` with every colour variable replaced by the palette's colour.

    Within data only the colour fields are touched, so that no name is ever mistaken for a colour.
    """
    if isinstance(spec, str):
        return _resolve_text(spec, palette)
    if isinstance(spec, list):
        return [resolve(item, palette) for item in spec]
    if isinstance(spec, dict):
        return {
            key: _resolve_data(value, palette) if key == "data" else resolve(value, palette)
            for key, value in spec.items()
        }
    return spec


def contrast(first: str, second: str) -> float:
    """Return the WCAG 2 contrast ratio of two ``#rrggbb`` colours, from 1 to 21.

    >>> round(contrast("#000000", "#ffffff"), 1)
    21.0
    """
    bright, dim = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _declarations(palette: Mapping[str, str], scheme: str) -> str:
    return f"color-scheme:{scheme};" + "".join(f"--{key}:{hue};" for key, hue in palette.items())


def _resolve_data(data: Any, palette: Mapping[str, str]) -> Any:
    rows = [
        {
            key: _resolve_text(cell, palette) if key in _COLOUR_FIELDS else cell
            for key, cell in row.items()
        }
        for row in data["values"]
    ]
    return {**data, "values": rows}


def _resolve_text(text: str, palette: Mapping[str, str]) -> str:
    if mixed := _MIX.fullmatch(text):
        end, share, middle = mixed.groups()
        return _mix(palette[end], palette[middle], int(share) / 100)
    if variable := _VARIABLE.fullmatch(text):
        return palette[variable.group(1)]
    return text


def _mix(first: str, second: str, share: float) -> str:
    pairs = zip(_channels(first), _channels(second), strict=True)
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)


def _channels(hue: str) -> tuple[int, int, int]:
    return int(hue[1:3], 16), int(hue[3:5], 16), int(hue[5:7], 16)


def _luminance(hue: str) -> float:
    def linear(channel: int) -> float:
        share = channel / 255
        return share / 12.92 if share <= 0.04045 else float(((share + 0.055) / 1.055) ** 2.4)

    red, green, blue = (linear(channel) for channel in _channels(hue))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
