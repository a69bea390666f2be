"""Characters rendered from the fonts of a hash-pinned package (as notMNIST was made, Bulatov 2011)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from taskloom.errors import DataError
from taskloom.evaluation.kept import Columns, archive_digest, kept_rows
from taskloom.evaluation.pictures import SIZE, Bytes, pillow
from taskloom.evaluation.rows import Row, SourceContext
from taskloom.registry import register
from taskloom.store.archives import open_archive
from taskloom.store.packages import PackageRef, fetch_package

_POINTS = 48  # size that glyphs are rendered at, before they are made to fit
_MARGIN = 2  # pixels left free on each side
_LEAST, _MOST = 5 / 255, 220 / 255  # ink of a glyph, as a share of the picture
_MISSING = "\U0010fffd"  # the last private character: a font shows its sign for "no such glyph"


@register("source")
def glyphs(
    context: SourceContext,
    /,
    *,
    package: PackageRef,
    folder: str,
    characters: str,
    without: list[str] | None = None,
    size: int = SIZE,
) -> list[Row]:
    """Render characters in every TrueType font of a folder, white on black.

    Columns: ``image``, ``character``, ``font`` (file) and ``family`` (as the font says: its weights
    and slants share it). The longer side of a glyph's bounding box is made ``size - 4`` pixels
    (Lanczos), and the glyph centred. A font's glyph is left out if it is the font's sign for a
    missing character, less than 3 pixels wide or high at 48 points, or a picture that is nearly
    empty (mean below 5 of 255) or nearly full (above 220).

    Parameters
    ----------
    package
        Registry, name, version and sha256 of the archive.
    folder
        Directory in the archive with ``.ttf`` files.
    characters
        What to render.
    without
        Names of font files that are not read, such as damaged ones.
    size
        Height and width in pixels.

    Raises
    ------
    SourceUnreachable, IntegrityError
        See `taskloom.store.packages.fetch_package`.
    DataError
        No font in the folder, one that cannot be read, or ``without`` names none.
    MissingExtra
        Pillow is not installed.
    """
    fetch_package(package, progress=context.progress)
    key = {
        "source": "glyphs",
        "package": archive_digest(package),
        "folder": folder,
        "characters": characters,
        "without": sorted(without or []),
        "size": size,
        "pillow": _version(),
    }

    def make() -> Columns:
        images: list[np.ndarray] = []
        words: dict[str, list[str]] = {"character": [], "font": [], "family": []}
        fonts = list(_fonts(package, folder, frozenset(without or [])))
        for done, (name, data) in enumerate(fonts, start=1):
            family, found = render(data, characters, name=name, size=size)
            for character, image in found.items():
                images.append(image)
                for column, value in (("character", character), ("font", name), ("family", family)):
                    words[column].append(value)
            context.progress(f"render glyphs for {context.task}", done, len(fonts))
        if not images:
            raise DataError(f"{package}: no font of {folder!r} has any of {characters!r}")
        return {"image": np.stack(images), **{name: np.array(each) for name, each in words.items()}}

    return kept_rows(key, make)


def render(data: bytes, characters: str, *, name: str, size: int = SIZE) -> tuple[str, dict[str, Bytes]]:
    """Return a font's family, and its pictures ``(size, size, 3)`` by character; see `glyphs`.

    Raises
    ------
    DataError
        The bytes are no font that FreeType reads; names the file.
    """
    image_font = pillow("rendering glyphs").ImageFont
    try:
        font = image_font.truetype(io.BytesIO(data), _POINTS, layout_engine=image_font.Layout.BASIC)
        missing = _glyph(font, _MISSING)
        drawn = {character: _glyph(font, character) for character in characters}
    except (OSError, ValueError) as error:
        raise DataError(
            f"{name} is not a readable font ({type(error).__name__}: {error})",
            hint="Name it under 'without', or get the package again",
        ) from None
    made: dict[str, Bytes] = {}
    for character, glyph in drawn.items():
        if glyph is None or (missing is not None and np.array_equal(glyph, missing)):
            continue
        picture = _centred(glyph, size)
        if _LEAST <= picture.mean() / 255 <= _MOST:
            made[character] = np.repeat(picture[..., None], 3, axis=2)
    return str(font.getname()[0]), made


def _glyph(font: Any, character: str) -> Bytes | None:
    """Return the glyph cut to its bounding box, or None if it is smaller than 3 pixels."""
    pil = pillow("rendering glyphs")
    left, top, right, bottom = (round(edge) for edge in font.getbbox(character))
    if right - left < 3 or bottom - top < 3:
        return None
    image = pil.Image.new("L", (right - left, bottom - top))
    pil.ImageDraw.Draw(image).text((-left, -top), character, font=font, fill=255)
    return np.asarray(image, dtype=np.uint8)


def _centred(glyph: Bytes, size: int) -> Bytes:
    image = pillow("rendering glyphs").Image
    height, width = glyph.shape
    scale = (size - 2 * _MARGIN) / max(height, width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    small = image.fromarray(glyph).resize((width, height), image.Resampling.LANCZOS)
    made: Bytes = np.zeros((size, size), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    made[top : top + height, left : left + width] = small
    return made


def _fonts(package: PackageRef, folder: str, without: frozenset[str]) -> Iterator[tuple[str, bytes]]:
    lead = f"{folder.strip('/')}/"
    with open_archive(fetch_package(package)) as archive:
        paths = {
            PurePosixPath(path).name: path
            for path in archive.names()
            if path.startswith(lead) and path.lower().endswith(".ttf")
        }
        if not paths or not without <= paths.keys():
            lacking = min(without - paths.keys(), default="*.ttf")
            raise DataError(f"{package}: the folder {folder!r} holds no font {lacking!r}")
        for name in sorted(paths.keys() - without):
            with archive.open(paths[name]) as file:
                yield name, file.read()


def _version() -> list[str]:
    """Return the versions of what renders: Pillow and FreeType."""
    from PIL import features

    return [pillow("rendering glyphs").__version__, str(features.version("freetype2"))]
