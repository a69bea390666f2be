"""Pictures of any size and colour become S x S pixels of three channels."""

import io

import numpy as np
import pytest
from PIL import Image

from taskloom.errors import DataError
from taskloom.evaluation.pictures import decode_picture, grey_pictures


def png(pixels, mode=None):
    """Bytes of a PNG file of an array."""
    sink = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8), mode).save(sink, "PNG")
    return sink.getvalue()


def test_a_picture_of_the_right_size_is_taken_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    made = decode_picture(png(pixels), name="x.png")
    assert made.dtype == np.uint8
    assert np.array_equal(made, pixels)


def test_what_is_transparent_becomes_white():
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:16, :, 3] = 255  # the upper half is black, the lower transparent
    made = decode_picture(png(pixels), name="x.png")
    assert (made[:16] == 0).all()
    assert (made[16:] == 255).all()


def test_half_transparent_black_is_grey():
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 3] = 51  # a fifth
    made = decode_picture(png(pixels), name="x.png", size=4)
    assert np.abs(made.astype(int) - 204).max() <= 1


@pytest.mark.parametrize("shape", [(16, 64), (64, 16)])
def test_a_long_picture_is_centred_on_white(shape):
    made = decode_picture(png(np.zeros(shape)), name="x.png")
    middle = made[12:20] if shape[0] < shape[1] else made[:, 12:20]
    assert (made == 0).any()
    assert middle.max() < 60
    outside = made[:11] if shape[0] < shape[1] else made[:, :11]
    assert (outside > 190).all()


def test_a_small_picture_is_enlarged_to_the_whole_square():
    assert (decode_picture(png(np.zeros((5, 5))), name="x.png") == 0).all()


def test_a_large_picture_is_reduced():
    pixels = np.zeros((400, 400, 3), np.uint8)
    pixels[:200] = 255
    made = decode_picture(png(pixels), name="x.png")
    assert (made[:14] > 240).all()
    assert (made[18:] < 15).all()


@pytest.mark.parametrize("broken", [b"", b"no picture", png(np.zeros((9, 9)))[:40]])
def test_what_is_no_picture_is_named(broken):
    with pytest.raises(DataError, match=r"a/b\.png is not a readable picture"):
        decode_picture(broken, name="a/b.png")


@pytest.mark.parametrize("most", [30, 20])  # more than Pillow's limit: a warning; twice: an error
def test_a_picture_that_could_be_an_attack_is_refused(monkeypatch, most):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    with pytest.raises(DataError, match="DecompressionBomb"):
        decode_picture(png(np.zeros((7, 7))), name="x.png")


def test_padding_moves_no_pixel():
    pixels = np.random.default_rng(1).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    made = grey_pictures(pixels, fit="pad")
    assert made.shape == (3, 32, 32, 3)
    assert np.array_equal(made[:, 2:30, 2:30, 1], pixels)
    assert made.sum() == 3 * pixels.sum(dtype=np.int64)
    assert (made[..., 0] == made[..., 2]).all()


def test_resizing_stretches_over_the_whole_square():
    pixels = np.zeros((1, 8, 8), np.uint8)
    pixels[:, :, 4:] = 255
    made = grey_pictures(pixels, fit="resize")
    assert (made[:, :, :13] == 0).all()
    assert (made[:, :, 19:] == 255).all()
    assert (np.diff(made[0, 0, :, 0].astype(int)) >= 0).all()


def test_padding_does_not_cut():
    with pytest.raises(DataError, match="33 x 20 pixels cannot be padded to 32 x 32"):
        grey_pictures(np.zeros((1, 33, 20), np.uint8), fit="pad")
