"""taskloom parts and taskloom restore."""

from safetensors.torch import load_file

import taskloom


def test_parts_and_back(cli, models, tmp_path):
    pool = ["--expert", f"spam={models['spam']}", "--expert", f"news={models['news']}"]
    words = ["--base", models["base"], *pool, "--method", "emr", "-o", tmp_path / "parts"]
    told = cli("parts", *words)
    assert told.status == 0, told.err
    assert "emr of 2 experts (elect_largest(paper))" in told.out
    data = cli("parts", *words, "--force", "--json").data
    assert (data["bytes_base"], data["bytes_full"]) == (12, 24)
    again = cli(
        "restore", tmp_path / "parts", "--base", models["base"], "--task", "news", "-o", tmp_path / "m"
    )
    assert again.status == 0, again.err
    assert "elect_largest(paper) -> take(news)" in again.out
    wanted = taskloom.merge(models["base"], {n: models[n] for n in ("spam", "news")}, "emr", task="news")
    assert load_file(tmp_path / "m" / "model.safetensors")["w"].tolist() == wanted["w"].tolist()
    assert (tmp_path / "m" / "config.json").is_file()


def test_options_of_the_method(cli, models, tmp_path):
    words = ["--base", models["base"], "--expert", models["spam"], "--expert", models["news"]]
    told = cli("parts", *words, "--method", "tall_masks", "--set", "threshold=1.0", "-o", tmp_path / "p")
    assert told.status == 0, told.err
    assert "tall_masks(1)" in told.out


def test_errors_are_one_line(cli, models, tmp_path):
    words = ["--base", models["base"], "--expert", models["spam"], "-o", tmp_path / "p"]
    told = cli("parts", *words, "--method", "ties")
    assert told.status == 2
    assert "ties keeps no parts of tasks" in told.err
    assert cli("parts", *words, "--method", "emr").status == 0
    told = cli("restore", tmp_path / "p", "--base", models["base"], "--task", "x", "-o", tmp_path / "m")
    assert (told.status, told.err.count("\n")) == (2, 1)
    assert "has no task 'x'" in told.err
    told = cli(
        "restore", tmp_path / "p", "--base", models["news"], "--task", "spam", "-o", tmp_path / "m"
    )
    assert told.status == 6
    assert not (tmp_path / "m").exists()
    told = cli("restore", tmp_path, "--base", models["base"], "--task", "x", "-o", tmp_path / "m")
    assert told.status == 3


def test_exclusive_parts_and_back_without_the_base(cli, models, tmp_path):
    pool = ["--expert", f"spam={models['spam']}", "--expert", f"news={models['news']}"]
    told = cli(
        "parts", "--base", models["base"], *pool, "--method", "twin_merging", "-o", tmp_path / "p"
    )
    assert told.status == 0, told.err
    assert "exclusive(low_rank, 0.1)); relative error 0 at most" in told.out
    assert "with the base" not in told.out
    told = cli("verify", tmp_path / "p", "--all")
    assert told.status == 0, told.err
    told = cli("restore", tmp_path / "p", "--task", "news", "-o", tmp_path / "m")
    assert told.status == 0, told.err
    assert load_file(tmp_path / "m" / "model.safetensors")["w"].tolist() == [3.0, -2.0, 4.0]
    told = cli("verify", tmp_path / "m")
    assert told.status == 0, told.err
    assert "1 tensors made again from the sources are the same" in told.out


def test_masks_are_not_restored_without_the_base(cli, models, tmp_path):
    words = ["--base", models["base"], "--expert", models["spam"], "--expert", models["news"]]
    assert cli("parts", *words, "--method", "emr", "-o", tmp_path / "p").status == 0
    told = cli("restore", tmp_path / "p", "--task", "spam", "-o", tmp_path / "m")
    assert (told.status, told.err.count("\n")) == (2, 1)
    assert "nothing without the base" in told.err
    assert not (tmp_path / "m").exists()
