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
