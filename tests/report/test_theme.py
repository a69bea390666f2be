import re
from importlib import resources

import pytest

from taskloom.runs.report import theme

PALETTES = {"light": theme.LIGHT, "dark": theme.DARK}
TEXT = ["ink", "ink-2", "link", "good", "bad", "base", "expert", "merge"]


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("ground", ["page", "card"])
def test_text_colours_reach_contrast_aa(palette, name, ground):
    assert theme.contrast(palette[name], palette[ground]) >= 4.5


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
@pytest.mark.parametrize("tone", ["good", "bad"])
def test_flags_reach_contrast_aa(palette, tone):
    assert theme.contrast(palette[tone], palette[f"{tone}-wash"]) >= 4.5


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
@pytest.mark.parametrize("strength", [x / 10 for x in range(-10, 11)])
def test_heatmap_text_reaches_contrast_aa_on_every_shade(palette, strength):
    assert theme.contrast(theme.resolve(theme.shade(strength), palette), palette["heat-ink"]) >= 4.5


def test_both_palettes_name_the_same_colours():
    assert set(theme.LIGHT) == set(theme.DARK)


def test_every_colour_the_style_sheet_uses_exists():
    folder = resources.files("taskloom.runs.report") / "assets"
    used = set(re.findall(r"var\(--([\w-]+)\)", (folder / "style.css").read_text()))
    assert used <= set(theme.LIGHT)


def test_resolve_leaves_names_in_data_alone():
    spec = {
        "color": "var(--ink)",
        "data": {"values": [{"model": "var(--ink)", "fill": "var(--card)"}]},
        "layer": [{"fill": theme.shade(1.0)}],
    }
    assert theme.resolve(spec, theme.LIGHT) == {
        "color": theme.LIGHT["ink"],
        "data": {"values": [{"model": "var(--ink)", "fill": theme.LIGHT["card"]}]},
        "layer": [{"fill": theme.LIGHT["heat-high"]}],
    }


def test_paper_is_light_whatever_the_reader_chose():
    every = ":root,:root:not([data-theme=light]),:root[data-theme=dark]"
    assert f"@media print{{{every}{{color-scheme:light;--page:{theme.LIGHT['page']};" in theme.css()
