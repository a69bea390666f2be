"""Pictures of any size and colour to one form: S x S pixels, three channels, uint8.

All image tasks of this library have that form, so that one encoder serves them all; what is grey has
three equal channels. Pillow is imported when it is needed.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from taskloom.errors import DataError, MissingExtra
from taskloom.evaluation.rows import Row

Bytes = NDArray[np.uint8]
Fit = Literal["pad", "resize"]
SIZE = 32  #: height and width of a picture unless a source says otherwise, in pixels


def pillow(purpose: str) -> Any:
    """Return Pillow's module ``PIL`` with Image, ImageDraw and ImageFont imported.

    Raises
    ------
    MissingExtra
        Pillow is not installed.
    """
    try:
        import PIL
        import PIL.Image
        import PIL.ImageDraw
        import PIL.ImageFont
    except ModuleNotFoundError:
        raise MissingExtra("pillow", "images", purpose=purpose) from None
    return PIL


def decode_picture(data: bytes, *, name: str, size: int = SIZE) -> Bytes:
    """Return a PNG, JPEG, GIF or BMP file as ``(size, size, 3)``: on white, centred in a square.

    Transparent pixels become white; the longer side becomes ``size`` pixels (Lanczos), the rest is
    white.

    Raises
    ------
    DataError
        The bytes are no picture that Pillow reads, or one so large that it could be an attack; names
        the file.
    MissingExtra
        Pillow is not installed.
    """
    image = pillow(f"reading {name}").Image
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", image.DecompressionBombWarning)
            with image.open(io.BytesIO(data)) as opened:
                opened.thumbnail((4 * size, 4 * size))  # a large one is made small before all else
                picture = opened.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Warning, image.DecompressionBombError) as error:
        raise DataError(
            f"{name} is not a readable picture ({type(error).__name__}: {error})",
            hint="Name it under 'without', or get the package again",
        ) from None
    return on_white(picture, size)


def on_white(picture: Any, size: int) -> Bytes:
    """Return a Pillow picture with transparency as ``(size, size, 3)``; see `decode_picture`."""
    image = pillow("placing a picture").Image
    side = max(picture.size)
    ground = image.new("RGBA", (side, side), (255, 255, 255, 255))
    ground.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    whole = ground.convert("RGB")
    if side != size:
        whole = whole.resize((size, size), image.Resampling.LANCZOS)
    return np.asarray(whole, dtype=np.uint8)


def labelled_pictures(
    pixels: Bytes, labels: Iterable[float], *, fit: Fit, size: int = SIZE, **more: str
) -> list[Row]:
    """Return a row for each grey picture: ``image``, ``label`` (a whole number), and what is ``more``.

    Parameters
    ----------
    pixels, fit, size
        See `grey_pictures`.
    labels
        One for each picture.
    more
        Further columns, the same in every row.
    """
    made = grey_pictures(pixels, fit=fit, size=size)
    return [
        {"image": image, "label": str(int(label)), **more}
        for image, label in zip(made, labels, strict=True)
    ]


def grey_pictures(pixels: Bytes, *, fit: Fit, size: int = SIZE) -> Bytes:
    """Return grey pictures ``(N, H, W)`` as ``(N, size, size, 3)`` with equal channels.

    Parameters
    ----------
    pixels
        0 is the ground.
    fit
        ``pad`` puts them in the middle of a ground of zeros, pixel for pixel; ``resize`` stretches
        them over the whole square (bilinear).

    Raises
    ------
    DataError
        ``pad`` with pictures larger than ``size``.
    MissingExtra
        ``resize`` without Pillow.

    Examples
    --------
    >>> made = grey_pictures(np.full((1, 2, 2), 9, np.uint8), fit="pad", size=4)
    >>> made.shape, made[0, :, :, 0].tolist()
    ((1, 4, 4, 3), [[0, 0, 0, 0], [0, 9, 9, 0], [0, 9, 9, 0], [0, 0, 0, 0]])
    """
    count, height, width = pixels.shape
    made: Bytes = np.zeros((count, size, size), np.uint8)
    if fit == "pad":
        if height > size or width > size:
            raise DataError(
                f"pictures of {height} x {width} pixels cannot be padded to {size} x {size}",
                hint="Say 'fit: resize'",
            )
        top, left = (size - height) // 2, (size - width) // 2
        made[:, top : top + height, left : left + width] = pixels
    else:
        image = pillow("resizing pictures").Image
        for i, one in enumerate(pixels):
            made[i] = image.fromarray(one).resize((size, size), image.Resampling.BILINEAR)
    return np.repeat(made[..., None], 3, axis=3)
