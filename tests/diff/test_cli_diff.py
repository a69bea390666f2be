"""The verb: tables on the standard output, warnings beside them, JSON for machines, a page on demand."""

import json

import pytest

from taskloom.cli.main import invoke

from .fixture import VOCABULARY, base, pool, write


@pytest.fixture
def models(tmp_path):
    start, experts = pool(2)
    write(tmp_path / "base", start, VOCABULARY)
    for name, weights in experts.items():
        write(tmp_path / name, weights)
    return tmp_path


@pytest.fixture
def cli(capsys):
    def call(*words):
        status = invoke([str(word) for word in words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def test_tables_of_a_sound_pool(models, cli):
    status, out, err = cli("diff", models / "base", models / "a", f"mood={models / 'b'}")
    assert status == 0
    assert "warning" not in err
    assert "note: ranks: " in err
    headings = ["Task vectors against", "Pairs of task vectors", "By layer", "By module type"]
    for words in [*headings, "layer 2", "attention.self.query", "mood", "Changed vocabulary", "word"]:
        assert words in out


def test_full_has_every_place(models, cli):
    _, out, _ = cli("diff", models / "base", models / "a", "--full", "--no-ranks")
    assert "By layer and module type" in out
    assert "By module type" not in out
    assert out.count("layer 1") == 4
    assert "Pairs of" not in out


def test_json_is_the_whole_result(models, cli):
    status, out, _ = cli("diff", models / "base", models / "a", models / "b", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["experts"] == ["a", "b"]
    assert set(found) == {"base", "experts", "whole", "regions", "layers", "modules", "ranks",
                          "vocabulary", "findings", "notes", "bytes_read"}  # fmt: skip
    assert len(found["regions"]) == 17
    assert found["vocabulary"][0]["most"][0]["number"] >= 0


def test_warnings_go_to_the_standard_error(models, cli):
    write(models / "alien", base(seed=7))
    status, out, err = cli("diff", models / "base", models / "alien")
    assert status == 0
    assert "warning: alien does not look tuned from" in err
    assert "warning:" not in out


def test_html_writes_a_page(models, cli, tmp_path):
    page = tmp_path / "page.html"
    status, _, err = cli("diff", models / "base", models / "a", "--html", page)
    assert status == 0
    assert f"wrote {page}" in err
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_options_reach_the_library(models, cli, monkeypatch):
    import taskloom

    seen = {}

    def spy(base, experts, **options):
        seen.update(options, base=base, experts=experts)
        raise taskloom.TaskloomError("enough")

    monkeypatch.setattr(taskloom, "diff", spy)
    status, _, err = cli("diff", "b", "x=e1", "e2", "--exact-rank-up-to", 9, "--rows", 3, "--seed", 5,
                         "--no-ranks", "--allow-pickle")  # fmt: skip
    assert (status, err) == (1, "error: enough\n")
    seen.pop("progress")
    assert (seen.pop("experts"), seen.pop("names")) == (["e1", "e2"], ["x", "e2"])
    assert seen == {"base": "b", "ranks": False, "rows": 3, "seed": 5, "allow_pickle": True,
                    "exact_rank_up_to": 9}  # fmt: skip


def test_no_expert_is_a_usage_error(models, cli):
    status, _, err = cli("diff", models / "base")
    assert status == 2
    assert "Missing argument" in err


def test_an_expert_that_does_not_fit_is_refused(models, cli):
    weights = base()
    weights.pop("logit_scale")
    write(models / "short", weights)
    status, out, err = cli("diff", models / "base", models / "short")
    assert status == 3
    assert out == ""
    assert "tensor 'logit_scale': expected as in base" in err
