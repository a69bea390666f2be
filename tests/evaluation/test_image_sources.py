"""Sources of pictures, with packages made here: nothing is fetched."""

import gzip
import io
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from taskloom import registry
from taskloom.errors import DataError, IntegrityError, PlanError
from taskloom.evaluation.rows import SourceContext
from taskloom.store.cache import cache_root

from .test_pictures import png

FONT = ImageFont.load_default(20).font_bytes  # the font that Pillow carries


def read(kind, root, /, **options):
    entry = registry.get("source", kind)
    return entry.function(SourceContext(root, "toy"), **entry.validate(options))


def idx_file(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def kept():
    return sorted((cache_root() / "pictures").glob("*.npz"))


# --- idx

IMAGES = np.arange(5 * 6 * 4).reshape(5, 6, 4)
LABELS = np.array([3, 1, 4, 1, 5])


@pytest.fixture
def idx_package(cached_package):
    def make(**changes):
        files = {
            "d/train-images": idx_file(IMAGES),
            "d/train-labels": idx_file(LABELS),
            "d/test-images.gz": gzip.compress(idx_file(IMAGES[:2])),
            "d/test-labels.gz": gzip.compress(idx_file(LABELS[:2])),
        }
        ref, _ = cached_package(files | changes)
        return {
            "package": ref,
            "images": {"train": "d/train-images", "test": "d/test-images.gz"},
            "labels": {"train": "d/train-labels", "test": "d/test-labels.gz"},
        }

    return make


def test_idx_files_of_two_splits(tmp_path, idx_package):
    rows = read("idx", tmp_path, **idx_package(), size=8)
    assert [row["label"] for row in rows] == ["3", "1", "4", "1", "5", "3", "1"]
    assert [row["split"] for row in rows] == ["train"] * 5 + ["test"] * 2
    assert np.array_equal(rows[4]["image"][1:7, 2:6, 0], IMAGES[4])
    assert all(row["image"].shape == (8, 8, 3) for row in rows)
    assert all(row["image"].dtype == np.uint8 for row in rows)


def test_only_the_first_of_an_idx_file(tmp_path, idx_package):
    rows = read("idx", tmp_path, **idx_package(), first={"train": 2})
    assert [row["label"] for row in rows] == ["3", "1", "3", "1"]


@pytest.mark.parametrize("most", [0, 6])
def test_more_than_there_are(tmp_path, idx_package, most):
    with pytest.raises(DataError, match=f"has 5 pictures, but 'first' asks for {most}"):
        read("idx", tmp_path, **idx_package(), first={"train": most})


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "found the bytes none"),
        (b"\0\0\x0d\x03" + bytes(40), "unsigned bytes with 3 axes"),
        (idx_file(LABELS), "with 3 axes"),
        (idx_file(IMAGES)[:-1], r"expected 120 bytes for its shape \(5, 6, 4\), found 119"),
        (idx_file(IMAGES) + b"!", "found 121"),
        (idx_file(IMAGES[:4]), "has 4 pictures, d/train-labels 5 labels"),
    ],
)
def test_what_is_no_idx_file(tmp_path, idx_package, content, match):
    with pytest.raises(DataError, match=match):
        read("idx", tmp_path, **idx_package(**{"d/train-images": content}))


def test_an_idx_file_cut_within_its_header(tmp_path, idx_package):
    with pytest.raises(DataError, match="d/train-images: expected"):
        read("idx", tmp_path, **idx_package(**{"d/train-images": idx_file(IMAGES)[:9]}))


def test_splits_of_images_and_labels_must_agree(tmp_path, idx_package):
    options = idx_package()
    with pytest.raises(DataError, match="same splits"):
        read("idx", tmp_path, **{**options, "labels": {"train": "d/train-labels"}})
    with pytest.raises(DataError, match=r"'first' of \['dev'\]"):
        read("idx", tmp_path, **options, first={"dev": 1})


# --- pixels


def pixel_package(cached_package, text, name="d/x.csv"):
    data = text.encode()
    return cached_package({name: gzip.compress(data) if name.endswith(".gz") else data})[0]


def test_lines_of_pixels(tmp_path, cached_package):
    ref = pixel_package(cached_package, "0,1,2,4,7\n4,4,0,0,9.0\n\n", "d/x.csv.gz")
    options = {"member": "d/x.csv.gz", "shape": [2, 2], "largest": 4, "size": 2}
    rows = read("pixels", tmp_path, package=ref, **options)
    assert [row["label"] for row in rows] == ["7", "9"]
    assert rows[0]["image"][..., 0].tolist() == [[0, 64], [128, 255]]
    assert (rows[0]["image"][..., 0] == rows[0]["image"][..., 2]).all()


def test_the_header_of_keel_is_left_out(tmp_path, cached_package):
    text = "@relation x\n@attribute a integer [0,16]\n@data\n1, 2, 3, 4, 0\n"
    ref = pixel_package(cached_package, text)
    rows = read("pixels", tmp_path, package=ref, member="d/x.csv", shape=[2, 2])
    assert [row["label"] for row in rows] == ["0"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("1,2,3,4,5\n1,2,3,4\n", "line 2 has 4 numbers, expected 5"),
        ("1,2,x,4,5\n", "line 1: could not convert"),
        ("1,2,nan,4,5\n", "expected lines of finite numbers"),
        ("@only\n", "expected lines of finite numbers, found none"),
        ("1,2,300,4,5\n", "expected pixels from 0 to 255 and"),
        ("1,2,-3,4,5\n", "found pixels from -3.0 to 4.0"),
        ("1,2,3,4,5.5\n", "whole numbers as labels"),
    ],
)
def test_what_are_no_lines_of_pixels(tmp_path, cached_package, text, match):
    ref = pixel_package(cached_package, text)
    with pytest.raises(DataError, match=match):
        read("pixels", tmp_path, package=ref, member="d/x.csv", shape=[2, 2])


# --- pictures


def flat(shade, size=32):
    return png(np.full((size, size), shade))


PATTERN = r"icons/(?P<kind>[^/]*)/(?P<icon>[^/]*)\.png$"


def picture_options(cached_package, extra=None, **changes):
    files = {
        "icons/b/two.png": flat(2),
        "icons/a/one.png": flat(1),
        "icons/a/readme.txt": b"no picture",
        "other/a/three.png": flat(3),
    }
    ref, _ = cached_package(files | (extra or {}))
    return {"packages": {"first": ref}, "pattern": PATTERN, **changes}


def test_pictures_of_a_package(tmp_path, cached_package):
    rows = read("pictures", tmp_path, **picture_options(cached_package))
    assert [row["image"][0, 0, 0] for row in rows] == [2, 1]
    del rows[0]["image"]
    assert rows[0] == {
        "package": "first",
        "path": "icons/b/two.png",
        "kind": "b",
        "icon": "two",
    }


def test_pictures_are_decoded_once(tmp_path, cached_package, monkeypatch):
    options = picture_options(cached_package)
    first = read("pictures", tmp_path, **options)
    assert len(kept()) == 1
    monkeypatch.setattr(
        "taskloom.evaluation.sources.pictures.decode_picture", lambda *_, **__: pytest.fail("again")
    )
    again = read("pictures", tmp_path, **options)
    for one, other in zip(first, again, strict=True):
        assert one["path"] == other["path"]
        assert type(other["path"]) is str
        assert np.array_equal(one["image"], other["image"])
        assert one["image"].dtype == other["image"].dtype


def test_other_options_are_other_pictures(tmp_path, cached_package):
    options = picture_options(cached_package)
    small = read("pictures", tmp_path, **options, size=8)
    assert small[0]["image"].shape == (8, 8, 3)
    assert read("pictures", tmp_path, **options)[0]["image"].shape == (32, 32, 3)
    assert len(kept()) == 2


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
def test_what_was_kept_and_is_damaged_is_made_again(tmp_path, cached_package, damage):
    options = picture_options(cached_package)
    read("pictures", tmp_path, **options)
    (path,) = kept()
    path.write_bytes(path.read_bytes()[:-30] if damage is None else damage)
    assert [row["image"][0, 0, 0] for row in read("pictures", tmp_path, **options)] == [2, 1]


def test_a_broken_picture_is_named_and_may_be_left_out(tmp_path, cached_package):
    options = picture_options(cached_package, {"icons/a/bad.png": b"bad"})
    with pytest.raises(DataError, match=r"icons/a/bad\.png is not a readable picture"):
        read("pictures", tmp_path, **options)
    assert kept() == []
    assert len(read("pictures", tmp_path, **options, without=["*/bad.png"])) == 2


def test_leaving_out_what_is_not_there(tmp_path, cached_package):
    with pytest.raises(DataError, match=r"'without' names '\*/bad\.png'"):
        read("pictures", tmp_path, **picture_options(cached_package, without=["*/bad.png"]))


def test_a_pattern_that_matches_nothing(tmp_path, cached_package):
    with pytest.raises(DataError, match="holds no file that matches"):
        read("pictures", tmp_path, **picture_options(cached_package, pattern="(?P<x>none)"))


@pytest.mark.parametrize(("pattern", "match"), [("(", "regular expression"), ("a", "no named group")])
def test_a_bad_pattern(tmp_path, cached_package, pattern, match):
    with pytest.raises(PlanError, match=match):
        read("pictures", tmp_path, **picture_options(cached_package, pattern=pattern))


def test_a_changed_package_is_refused_although_its_pictures_are_kept(tmp_path, cached_package):
    options = picture_options(cached_package)
    read("pictures", tmp_path, **options)
    (archive,) = (cache_root() / "packages").glob("*/*.whl")
    archive.write_bytes(archive.read_bytes() + b"!")
    with pytest.raises(IntegrityError, match="toypack"):
        read("pictures", tmp_path, **options)


# --- emoji

ONE = {"name": "ONE", "category": "Flags", "subcategory": "flag", "sheet_x": 0, "sheet_y": 1}
HAND = {"name": "HAND", "category": "People & Body", "subcategory": "hand", "sheet_x": 1, "sheet_y": 0}
VARIANTS = {
    "1F3FB": {"sheet_x": 1, "sheet_y": 1, "has_img_acme": True},
    "1F3FC": {"sheet_x": 1, "sheet_y": 1, "has_img_acme": False},
}
TABLE = [
    {**ONE, "has_img_acme": True},
    {**HAND, "has_img_acme": True, "skin_variations": VARIANTS},
    {**ONE, "name": "NOT OURS", "has_img_acme": False},
]


def sheet():
    """Two by two emoji of one shade each, 10 * column + row, with a border of another."""
    pixels = np.full((68, 68, 4), 255, np.uint8)
    for x in range(2):
        for y in range(2):
            pixels[y * 34 + 1 : y * 34 + 33, x * 34 + 1 : x * 34 + 33, :3] = 10 * x + y
    return png(pixels)


def emoji_options(cached_package, table=TABLE, picture=None):
    files = {
        "package/emoji.json": json.dumps(table).encode(),
        "package/img/acme/sheets/32.png": sheet() if picture is None else picture,
    }
    ref, _ = cached_package(files)
    return {"packages": {"acme": ref}}


def test_emoji_are_cut_from_the_sheet(tmp_path, cached_package):
    rows = read("emoji", tmp_path, **emoji_options(cached_package))
    assert [(row["name"], row["tone"]) for row in rows] == [
        ("ONE", "none"),
        ("HAND", "none"),
        ("HAND", "1F3FB"),
    ]
    assert [np.unique(row["image"]).tolist() for row in rows] == [[1], [10], [11]]
    assert rows[1]["category"] == "People & Body"
    assert rows[1]["vendor"] == "acme"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"table": [{"name": "x"}]}, "expected a table of emoji.*KeyError"),
        ({"table": 3}, "expected a table of emoji"),
        ({"picture": b"none"}, "sheet of emoji is not a readable picture"),
        ({"table": [{**ONE, "sheet_x": 2, "has_img_acme": True}]}, "place 2, 1 lies outside"),
    ],
)
def test_a_broken_package_of_emoji(tmp_path, cached_package, changes, match):
    with pytest.raises(DataError, match=match):
        read("emoji", tmp_path, **emoji_options(cached_package, **changes))


# --- glyphs


def glyph_options(cached_package, extra=None, **changes):
    ref, _ = cached_package({"fonts/b.ttf": FONT, "fonts/readme.txt": b"x"} | (extra or {}))
    return {"package": ref, "folder": "fonts", "characters": "AB", **changes}


def test_glyphs_of_a_font(tmp_path, cached_package):
    rows = read("glyphs", tmp_path, **glyph_options(cached_package))
    assert [(row["character"], row["font"]) for row in rows] == [("A", "b.ttf"), ("B", "b.ttf")]
    assert {row["family"] for row in rows} == {"Aileron"}
    for row in rows:
        image = row["image"]
        assert image.shape == (32, 32, 3)
        assert (image[..., 0] == image[..., 2]).all()
        ink = np.argwhere(image[..., 0] > 0)
        height, width = ink.max(0) - ink.min(0) + 1
        assert max(height, width) == 28
        assert abs(ink.max(0)[0] + ink.min(0)[0] - 31) <= 1  # centred


def test_a_glyph_is_what_pillow_draws(tmp_path, cached_package):
    rows = read("glyphs", tmp_path, **glyph_options(cached_package, characters="A"))
    font = ImageFont.truetype(io.BytesIO(FONT), 48, layout_engine=ImageFont.Layout.BASIC)
    whole = Image.new("L", (96, 96))
    ImageDraw.Draw(whole).text((20, 20), "A", font=font, fill=255)
    cut = whole.crop(whole.getbbox())
    scale = 28 / max(cut.size)
    wide = cut.resize([round(n * scale) for n in cut.size], Image.Resampling.LANCZOS)
    drawn = np.asarray(wide, float).mean() * wide.width * wide.height
    assert abs(rows[0]["image"][..., 0].sum() - drawn) < 0.03 * drawn


def test_a_character_that_a_font_lacks_is_left_out(tmp_path, cached_package):
    rows = read("glyphs", tmp_path, **glyph_options(cached_package, characters="A\u4e00 "))
    assert [row["character"] for row in rows] == ["A"]


def test_no_font_has_any_of_the_characters(tmp_path, cached_package):
    with pytest.raises(DataError, match="no font of 'fonts' has any"):
        read("glyphs", tmp_path, **glyph_options(cached_package, characters="\u4e00"))


def test_a_broken_font_is_named_and_may_be_left_out(tmp_path, cached_package):
    options = glyph_options(cached_package, {"fonts/a.ttf": b"bad"})
    with pytest.raises(DataError, match=r"a\.ttf is not a readable font"):
        read("glyphs", tmp_path, **options)
    assert len(read("glyphs", tmp_path, **options, without=["a.ttf"])) == 2


def test_fonts_that_are_not_there(tmp_path, cached_package):
    options = glyph_options(cached_package)
    with pytest.raises(DataError, match=r"no font 'a\.ttf'"):
        read("glyphs", tmp_path, **options, without=["a.ttf"])
    with pytest.raises(DataError, match=r"'none' holds no font"):
        read("glyphs", tmp_path, **{**options, "folder": "none"})
