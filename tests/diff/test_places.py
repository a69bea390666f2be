"""Layers and module types of the names that models in the wild have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.choose.diff.places import OTHER, place_of, rows_and_columns


@pytest.mark.parametrize(
    ("name", "stack", "layer", "module"),
    [
        ("model.layers.11.self_attn.q_proj.weight", "model.layers", 11, "self_attn.q_proj"),
        ("model.layers.0.input_layernorm.weight", "model.layers", 0, "input_layernorm"),
        ("model.layers.3.mlp.experts.7.w1.weight", "model.layers", 3, "mlp.experts.w1"),
        ("encoder.layer.0.attention.self.query.bias", "encoder.layer", 0, "attention.self.query"),
        ("bert.encoder.layer.5.output.LayerNorm.weight", "bert.encoder.layer", 5, "output.LayerNorm"),
        ("transformer.h.2.attn.c_attn.weight", "transformer.h", 2, "attn.c_attn"),
        ("encoder.block.4.layer.0.SelfAttention.q.weight", "encoder.block", 4, "SelfAttention.q"),
        (
            "decoder.block.4.layer.2.DenseReluDense.wi_0.weight",
            "decoder.block",
            4,
            "DenseReluDense.wi_0",
        ),
        ("visual.blocks.9.attn.qkv.weight", "visual.blocks", 9, "attn.qkv"),
        ("layer3.1.conv2.weight", "layers", 3, "conv2"),
        ("h_4.mlp.weight", "layers", 4, "mlp"),
        ("0.weight", "", 0, OTHER),
        ("net.2.bias", "net", 2, OTHER),
        ("lm_head.weight", "lm_head", None, OTHER),
        ("model.embed_tokens.weight", "model.embed_tokens", None, OTHER),
        ("logit_scale", "logit_scale", None, OTHER),
        ("wav2vec2.feature_projection.weight", "wav2vec2.feature_projection", None, OTHER),
    ],
)
def test_place(name, stack, layer, module):
    place = place_of(name)
    assert (place.stack, place.layer, place.module) == (stack, layer, module)


def labels(*names):
    rows, columns = rows_and_columns(names)
    assert list(rows) == list(columns)
    return list(dict.fromkeys(rows.values()))


def test_two_stacks_are_told_apart_by_what_holds_them():
    names = ["encoder.block.0.q.weight", "decoder.block.0.q.weight", "encoder.block.1.q.weight"]
    assert labels(*names) == ["encoder 0", "encoder 1", "decoder 0"]


def test_stacks_that_one_word_does_not_tell_apart_keep_their_path():
    assert labels("layers.0.w.weight", "h.0.w.weight") == ["layers 0", "h 0"]
    assert labels("0.w.weight", "side.0.w.weight") == ["layer 0", "side 0"]


def test_layers_go_by_number_not_by_text():
    assert labels(*(f"layers.{i}.w.weight" for i in (10, 9, 1))) == ["layer 1", "layer 9", "layer 10"]


def test_names_outside_are_short_where_they_stay_apart():
    assert labels("model.shared.weight", "a.b.norm.weight") == ["shared", "b.norm"]
    both = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    assert labels(*both) == ["encoder.embed_tokens", "decoder.embed_tokens"]


@given(st.lists(st.from_regex(r"[a-z0-9]{1,3}(\.[a-z0-9]{1,3}){0,4}", fullmatch=True), unique=True))
def test_every_name_gets_one_row_and_one_column(names):
    rows, columns = rows_and_columns(names)
    assert set(rows) == set(columns) == set(names)
    assert all(rows.values())
    assert all(columns.values())
    places = {name: place_of(name) for name in names}
    for one in names:
        for other in names:
            apart = (places[one].stack, places[one].layer) != (places[other].stack, places[other].layer)
            assert not apart or rows[one] != rows[other]


@pytest.mark.parametrize("name", ["", ".", "..", "a..b", "1", "\N{ARABIC-INDIC DIGIT ONE}.w"])
def test_odd_names_do_no_harm(name):
    rows, _ = rows_and_columns([name])
    assert isinstance(rows[name], str)
