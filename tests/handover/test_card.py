"""Cards: metadata that parses, text that is only text, licences that somebody stated."""

from __future__ import annotations

import re

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from taskloom.store.card import Origin, front_matter, license_of, model_card, origin_of
from taskloom.store.memory import MemoryCheckpoint
from taskloom.store.open import open_checkpoint

SHA = "0123456789abcdef" * 2 + "01234567"
RECIPE = {"method": "ties", "options": {"density": 0.2, "weights": [1, 2]}, "seed": 3}


def metadata(card):
    head = re.match(r"\A---\n(.*?)\n---\n", card, re.DOTALL)
    return yaml.safe_load(head[1])


def origins(*licenses):
    return [
        Origin("base" if i == 0 else "expert", f"m{i}", f"o/m{i}@{SHA}", f"o/m{i}", f"{i}" * 64, each)
        for i, each in enumerate(licenses)
    ]


def test_metadata():
    card = model_card("My merge", origins("mit", "mit"), RECIPE, version="0.1.0")
    assert metadata(card) == {
        "base_model": ["o/m0", "o/m1"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["merge", "taskloom"],
        "license": "mit",
    }
    assert "# My merge" in card
    assert "A merge of 1 expert of one base, made with Taskloom 0.1.0." in card
    assert "1" * 64 in card
    block = re.search(r"```yaml\n(.*?)\n```", card, re.DOTALL)
    assert yaml.safe_load(block[1]) == RECIPE


def test_the_hubs_own_parser_agrees():
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(model_card("m", origins("apache-2.0", "apache-2.0"), RECIPE)).data
    assert (data.base_model, data.license) == (["o/m0", "o/m1"], "apache-2.0")
    assert data.tags == ["merge", "taskloom"]
    assert data.to_dict()["base_model_relation"] == "merge"


@pytest.mark.parametrize(
    ("licenses", "named", "sentence"),
    [
        (("mit", "mit"), "mit", "Every source is published under the licence mit"),
        (("mit", "apache-2.0"), None, "different licences, or some state none"),
        (("mit", None), None, "different licences, or some state none"),
        ((None, None), None, "No source states a licence"),
    ],
)
def test_a_licence_is_never_invented(licenses, named, sentence):
    card = model_card("m", origins(*licenses), RECIPE)
    assert metadata(card).get("license") == named
    assert sentence in card


def test_local_sources_are_not_named_as_models_of_the_hub():
    card = model_card(
        "m", [Origin("expert", "a", "a"), Origin("expert", "b", "b")], RECIPE, library=None
    )
    assert metadata(card) == {"tags": ["merge", "taskloom"]}
    assert "A merge of 2 experts, made with" in card


def test_a_recipe_file_is_shown_verbatim():
    text = "models:\n  - model: a\n# ```` a comment\n"
    card = model_card("m", origins("mit"), text)
    assert f"`````yaml\n{text}`````\n" in card


HOSTILE = "x\n---\nlicense: mit\n| a | <script>alert(1)</script> [l](javascript:x) ``` *b* _c_ # $"


def test_names_are_only_text():
    each = Origin("expert", HOSTILE, HOSTILE, None, None, None)
    card = model_card(HOSTILE, [each], {"method": HOSTILE}, composition=HOSTILE, version=HOSTILE)
    assert metadata(card) == {"library_name": "transformers", "tags": ["merge", "taskloom"]}
    body = card.split("---\n", 2)[2]
    outside = re.sub(r"(`{3,})yaml\n.*?\n\1\n", "", body, flags=re.DOTALL)
    assert "<script>" not in outside
    assert not re.search(r"(?<!\\)\]\(", outside)
    assert not re.search(r"(?<!\\)`", outside)
    row = next(line for line in outside.splitlines() if line.startswith("| expert"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 6


@given(text=st.text(max_size=40))
def test_any_name_keeps_the_metadata_and_the_table(text):
    card = model_card(text, [Origin("expert", text, text, text or None)], {"x": text}, composition=text)
    head = yaml.safe_load(card.split("\n---\n", 1)[0].removeprefix("---\n"))
    assert head.get("base_model", [""]) == [text]
    row = next(line for line in card.splitlines() if line.startswith("| expert |"))
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) >= 6


def write_card(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("---\nlicense: mit\n---\n# m", "mit"),
        ("---\r\nlicense: apache-2.0\r\n---\r\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: ours\n---\n", None),
        ("---\nlicense: unknown\n---\n", None),
        ("---\nlicense: [mit, gpl]\n---\n", None),
        ("---\nlicense: 'mit\n  and: x'\n---\n", None),
        ("---\ntags: [a]\n---\n", None),
        ("license: mit\n", None),
        ("---\nlicense: mit\n", None),
        ("---\n- a\n---\n", None),
        ("---\n{: [\n---\n", None),
        ("---\nlicense: !!python/object/apply:os.system ['x']\n---\n", None),
        ("", None),
    ],
)
def test_licences_of_cards(tmp_path, text, found):
    assert license_of(write_card(tmp_path, text)) == found


def test_cards_that_cannot_be_read(tmp_path):
    assert front_matter(tmp_path) == {}
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\n---\n")
    assert front_matter(tmp_path) == {}
    secret = write_card(tmp_path / "secret", "---\nlicense: mit\n---\n")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "README.md").symlink_to(secret / "README.md")
    assert front_matter(tmp_path / "m") == {}, "a link to the outside is not followed"


def test_origins(tmp_path):
    folder = write_card(tmp_path / f"models--org--small/snapshots/{SHA}".replace("/", "_"), "")
    snapshot = tmp_path / "models--org--small" / "snapshots" / SHA
    snapshot.mkdir(parents=True)
    save_file({"w": torch.ones(1)}, snapshot / "model.safetensors")
    write_card(snapshot, "---\nlicense: mit\n---\n")
    found = origin_of("expert", "small", open_checkpoint(snapshot), digest="d")
    assert found == Origin("expert", "small", f"org/small@{SHA}", "org/small", "d", "mit")
    save_file({"w": torch.ones(1)}, folder / "one.safetensors")
    found = origin_of("base", "base", open_checkpoint(folder / "one.safetensors"))
    assert found == Origin("base", "base", "one.safetensors")
    found = origin_of("expert", "e", MemoryCheckpoint({"w": torch.ones(1)}))
    assert found == Origin("expert", "e", "<memory>")
