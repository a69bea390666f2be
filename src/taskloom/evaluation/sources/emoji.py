"""Pictures of emoji, cut from the sheets of the ``emoji-datasource`` packages."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from taskloom.errors import DataError
from taskloom.evaluation.kept import Columns, archive_digest, kept_rows
from taskloom.evaluation.pictures import SIZE, on_white, pillow
from taskloom.evaluation.rows import Row, SourceContext
from taskloom.registry import register
from taskloom.store.packages import PackageRef, fetch_package, open_member

_CELL, _BORDER = 32, 1  # pixels of an emoji in the sheet, and around it


@register("source")
def emoji(context: SourceContext, /, *, packages: dict[str, PackageRef], size: int = SIZE) -> list[Row]:
    """Read every emoji of one or more vendors, on white.

    Columns: ``image``, ``vendor``, ``category`` and ``subcategory`` (Unicode's), ``name``, and
    ``tone``: ``none``, or the code points of the skin tones, such as ``1F3FB``. Skin variants have
    the name of the emoji they vary.

    Parameters
    ----------
    packages
        For each vendor, as the package calls it (``google``, ``twitter``), the npm package
        ``emoji-datasource-VENDOR``.
    size
        Height and width in pixels; the sheet has 32.

    Raises
    ------
    SourceUnreachable, IntegrityError
        See `taskloom.store.packages.fetch_package`.
    DataError
        A package without the table or the sheet, or one that lies outside the other.
    MissingExtra
        Pillow is not installed.
    """
    for ref in packages.values():
        fetch_package(ref, progress=context.progress)
    key = {
        "source": "emoji",
        "packages": {name: archive_digest(ref) for name, ref in packages.items()},
        "size": size,
        "pillow": pillow("reading emoji").__version__,
    }
    return kept_rows(key, lambda: _columns(packages, size))


def _columns(packages: dict[str, PackageRef], size: int) -> Columns:
    images: list[np.ndarray] = []
    words: dict[str, list[str]] = {
        name: [] for name in ("vendor", "category", "subcategory", "name", "tone")
    }
    for vendor, ref in packages.items():
        sheet = _sheet(open_member(ref, f"package/img/{vendor}/sheets/{_CELL}.png"), ref)
        for found in _entries(open_member(ref, "package/emoji.json"), vendor, ref):
            x, y = found.pop("sheet_x"), found.pop("sheet_y")
            images.append(on_white(_cut(sheet, x, y, ref), size))
            for column, value in found.items():
                words[column].append(value)
    return {"image": np.stack(images), **{name: np.array(each) for name, each in words.items()}}


def _sheet(data: bytes, ref: PackageRef) -> Any:
    image = pillow("reading emoji").Image
    try:
        with image.open(io.BytesIO(data)) as opened:
            return opened.convert("RGBA")
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{ref}: the sheet of emoji is not a readable picture ({error})") from None


def _entries(data: bytes, vendor: str, ref: PackageRef) -> list[dict[str, Any]]:
    """Return place and words of every emoji the vendor has, its skin variants after it."""
    made: list[dict[str, Any]] = []
    try:
        for each in json.loads(data):
            shared = {
                "vendor": vendor,
                "category": each["category"],
                "subcategory": each["subcategory"],
                "name": each["name"],
            }
            variants = {"none": each} | each.get("skin_variations", {})
            made += [
                {**shared, "tone": tone, "sheet_x": one["sheet_x"], "sheet_y": one["sheet_y"]}
                for tone, one in variants.items()
                if one[f"has_img_{vendor}"]
            ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{ref}: expected a table of emoji in emoji.json, found none "
            f"({type(error).__name__}: {error})",
            hint="Name an emoji-datasource package, and its vendor as the package does",
        ) from None
    return made


def _cut(sheet: Any, x: int, y: int, ref: PackageRef) -> Any:
    step = _CELL + 2 * _BORDER
    left, top = x * step + _BORDER, y * step + _BORDER
    if x < 0 or y < 0 or left + _CELL > sheet.width or top + _CELL > sheet.height:
        raise DataError(f"{ref}: place {x}, {y} lies outside the sheet of {sheet.size} pixels")
    return sheet.crop((left, top, left + _CELL, top + _CELL))
