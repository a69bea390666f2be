"""Steps by name: every one, alone and in lists; recipe files; what is refused."""

import json

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

import taskloom
from taskloom import merge, registry
from taskloom.cli.main import taskloom as program
from taskloom.errors import PlanError, UnknownName
from taskloom.merging.battery import check_rule
from taskloom.merging.compose import set_option
from taskloom.merging.recipe import Recipe

from ..fixture import BASE, THETA1, THETA2, close, merged
from ..parts.test_parts import experts, on_disk, read_all, same, weights

#: each step within the shortest list that makes a merge of it
ALONE = {
    "keep": [{"keep": {"density": 0.5}}, "total"],
    "cut": [{"cut": {"share": 0.3}}, "total"],
    "band": [{"band": {"density": 0.5, "remove": 0.2}}, "total"],
    "drop": [{"drop": {"p": 0.5}}, "total"],
    "drop_by_rank": [{"drop_by_rank": {"density": 0.5, "epsilon": 0.2}}, "total"],
    "beyond": [{"beyond": {"size": 0.2}}, "total"],
    "clip": [{"clip": {"limit": 0.2}}, "total"],
    "exclusive": [{"exclusive": {"density": 0.3}}, "total"],
    "exclusive_blocks": [{"exclusive_blocks": {"n": 1, "m": 3}}, "total"],
    "prune_layers": [{"prune_layers": {"share": 0.4}}, "total"],
    "elect": ["elect", "total"],
    "tall_masks": ["tall_masks", "take"],
    "elect_largest": ["elect_largest", {"consensus": 1}],
    "consensus": ["tall_masks", "consensus"],
    "take": ["elect_largest", "take"],
    "compete": [{"compete": {"ratio": 0.5}}],
    "weigh": [{"weigh": {"weights": [0.5, 0.2, 0.3]}}, "total"],
    "weigh_by_size": ["weigh_by_size", "total"],
    "weigh_by_sensitivity": ["weigh_by_sensitivity", "total"],
    "favour_unique": [{"keep": 0.4}, {"favour_unique": {"gain": 0.3, "most": 2.0}}, "total"],
    "total": ["total"],
    "mean": ["mean"],
    "scale": ["mean", {"scale": 0.5}],
    "interpolate_sphere": [{"interpolate_sphere": 0.3}],
    "fuse": [{"fuse": 0.5}],
    "stock": ["stock"],
}


def test_every_step_is_tried():
    assert set(ALONE) == {entry.name for entry in registry.entries("step")}


@pytest.mark.parametrize("rule", ["any_slices", "zero_task_vectors", "declared_reads"])
@pytest.mark.parametrize("name", ALONE)
def test_every_step_keeps_the_rules(name, rule):
    chain = Recipe.read(ALONE[name]).chain
    if name == "weigh" and rule != "zero_task_vectors":
        chain = Recipe.read([{"weigh": {"weights": {"x": 0.5, "y": 0.2, "z": 0.3}}}, "total"]).chain
        if rule == "any_slices":  # nine experts
            chain = Recipe.read([{"weigh": {"weights": [0.1] * 9}}, "total"]).chain

    def composed():
        return chain

    check_rule(rule, composed)


@pytest.mark.parametrize(
    ("steps", "method", "options"),
    [
        (
            [{"keep": 0.5}, "elect", {"mean": "kept"}, {"scale": 0.7}],
            "ties",
            {"density": 0.5, "scale": 0.7},
        ),
        (["total", {"scale": 0.3}], "task_arithmetic", {}),
        ([{"drop": 0.4}, "total", {"scale": 0.3}], "dare_linear", {"p": 0.4}),
        (["weigh_by_size", "total"], "metagpt", {}),
        ([{"weigh_by_size": {"power": 1, "scope": "tensor"}}, "total"], "codiemb", {}),
        (["tall_masks", "consensus", {"scale": 0.3}], "consensus", {}),
        (["elect_largest", {"take": "expert-2"}], "emr", {"task": "expert-2"}),
        ([{"compete": {"ratio": 0.5}}, {"scale": 1.2}], "pcb", {"ratio": 0.5}),
        ([{"fuse": 0.5}], "sce", {"select_topk": 0.5}),
        (["stock"], "model_stock", {}),
    ],
    ids=str,
)
def test_methods_are_lists_of_steps(steps, method, options):
    assert merged(steps).tolist() == merged(method, **options).tolist()


def test_a_method_that_has_no_name():
    """Layers pruned, signs elected by size, what agrees averaged: with plain numbers."""
    taus = np.array([THETA1, THETA2]) - np.array(BASE)
    kept = np.where(abs(taus) > 0.1, taus, 0)
    weights_ = (kept**2).sum(1) / (kept**2).sum()
    weighted = weights_[:, None] * kept
    sign = np.sign(weighted.sum(0))
    agreed = np.where(weighted * sign > 0, weighted, 0)
    found = merged([{"beyond": 0.1}, "weigh_by_size", "elect", "total", {"scale": 2}])
    assert found == close(BASE + 2 * agreed.sum(0))


def test_methods_can_be_steps():
    found = merged([{"keep": {"density": 0.5}}, {"task_arithmetic": {"scale": 0.7}}])
    wanted = merged("magnitude_pruning", density=0.5, scale=0.7, scope="model")
    assert found.tolist() == wanted.tolist()


def test_whole_weights():
    found = merged({"steps": ["mean"], "space": "weight"}, base=None)
    assert found == close((np.array(THETA1) + THETA2) / 2)


def test_a_seed_goes_to_steps_that_draw():
    steps = [{"drop": 0.5}, "total"]
    assert "seed 7" in str(Recipe.read(steps, seed=7).chain)
    assert "seed 3" in str(Recipe.read([{"drop": {"p": 0.5, "seed": 3}}, "total"], seed=7).chain)
    one, two = (merge(weights(0), experts(), steps, seed=seed) for seed in (1, 2))
    assert not torch.equal(one["matrix"], two["matrix"])


def test_a_recipe_is_what_it_says():
    recipe = Recipe.read(["elect", {"mean": "kept"}])
    assert recipe.method == "steps"
    plain = recipe.plain()
    assert json.loads(json.dumps(plain)) == plain
    assert Recipe.of("steps", **plain) == recipe
    assert Recipe.read({"steps": plain["steps"]}) == recipe
    assert Recipe.read(recipe) is recipe
    assert hash(recipe) != hash(Recipe.read(["elect", "mean"]))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], r"expected a list of one step or more, found \[\]"),
        ([{"kep": 0.2}], "unknown merging step 'kep' in step 1: did you mean 'keep'"),
        (["total", "scal"], "unknown merging step 'scal' in step 2: did you mean 'scale'"),
        (["keep"], "step 1: keep: the option 'density' is missing"),
        ([{"keep": {"densty": 0.2}}], "step 1: keep: unknown option 'densty': did you mean 'density'"),
        ([{"keep": 2}], "step 1: keep: option 'density' is 2, but input should be less than"),
        ([{"keep": 0.2}, {"total": 3}], "step 2: total takes no options, found 3"),
        ([3], "step 1: expected a name, or one name with its options, found 3"),
        ([{"keep": 0.2, "elect": None}], "step 1: expected a name"),
        ([{3: 4}], "step 1: expected a name"),
        ([{"exclusive_blocks": {"n": 3, "m": 2}}], "step 1: n of every m entries are kept"),
        ([{"weigh": {"weights": torch.ones(2)}}], "step 1: weigh is given a tensor"),
        (["average"], "step 1: average works in the space 'weight', and these steps in 'delta'"),
    ],
    ids=str,
)
def test_lists_that_cannot_be(steps, message):
    with pytest.raises(PlanError, match=message):
        merged(steps)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"stesp": []}, "recipe: unknown key 'stesp': did you mean 'steps'"),
        ({}, "either steps or a method"),
        ({"steps": ["total"], "method": "ties"}, "either steps or a method"),
        ({"steps": "total"}, "expected a list of one step or more, found 'total'"),
        ({"steps": ["total"], "space": "log"}, "space is 'log'. Take 'delta' or 'weight'"),
        ({"steps": ["total"], "options": {"scale": 1}}, "unknown option 'options'"),
        ({"method": "ties", "options": [1]}, "options map names to values"),
        ({"method": "ties", "space": "delta"}, "space goes with steps"),
        (3, "expected a method's name or a Recipe, found int.*list of steps"),
    ],
    ids=str,
)
def test_recipes_that_cannot_be(content, message):
    with pytest.raises(PlanError, match=message):
        merged(content)


def test_options_belong_to_steps():
    with pytest.raises(PlanError, match="belong to a method's name"):
        merged(["total"], scale=0.3)


def test_rows_that_are_left_are_told():
    with pytest.raises(PlanError, match="ends with 2 rows"):
        merged(["elect"])


def test_experts_that_are_missing():
    with pytest.raises(PlanError, match="exactly 2 experts"):
        merged([{"interpolate_sphere": 0.5}], experts=(THETA1,))
    with pytest.raises(PlanError, match="at least 3 experts"):
        merged(["tall_masks", {"consensus": 3}])


@pytest.mark.parametrize(
    ("where", "steps"),
    [
        ("scale.factor", ["total", {"scale": {"factor": 2}}]),
        ("2.factor", ["total", {"scale": {"factor": 2}}]),
    ],
)
def test_an_option_of_a_step_is_set(where, steps):
    assert set_option(["total", "scale"], where, 2) == steps


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("factor", "'factor' means no step"),
        ("scal.factor", "'scal.factor' means no step.*the steps are keep, scale, scale"),
        ("scale.factor", "'scale.factor' means 2 steps"),
        ("4.factor", "means no step"),
        ("1.density", "both set and swept"),
    ],
)
def test_options_that_mean_no_step(where, message):
    with pytest.raises(PlanError, match=message):
        set_option([{"keep": 0.2}, "scale", "scale"], where, 2)


def write(path, content):
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    "content",
    [
        [{"keep": 0.5}, "elect", {"mean": "kept"}],
        {"steps": [{"keep": 0.5}, "elect", {"mean": "kept"}]},
        {"method": "ties", "options": {"density": 0.5}},
    ],
    ids=str,
)
def test_recipe_files(tmp_path, content):
    path = write(tmp_path / "mine.yaml", content)
    wanted = merged("ties", density=0.5)
    assert merged(str(path)).tolist() == wanted.tolist()
    assert merged(path).tolist() == wanted.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        ("steps: [", "is not valid YAML"),
        ("steps: [total]\nsteps: [mean]", "the key 'steps' is given twice"),
        ("3", "holds neither a list of steps nor a mapping"),
        ("", "holds neither a list of steps nor a mapping"),
        (b"\xff\xfe", "is not UTF-8"),
    ],
    ids=str,
)
def test_recipe_files_that_cannot_be(tmp_path, content, message):
    path = tmp_path / "mine.yml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PlanError, match=message):
        merged(str(path))


def test_files_are_merged_and_verified(tmp_path):
    base = on_disk(tmp_path / "base", weights(0))
    pool = {
        n.replace("/", "-"): on_disk(tmp_path / f"e{k}", w) for k, (n, w) in enumerate(experts().items())
    }
    steps = [{"drop": {"p": 0.3}}, {"keep": 0.6}, "elect", {"mean": "kept"}, {"scale": 0.8}]
    recipe = write(tmp_path / "mine.yaml", {"steps": steps})
    report = taskloom.merge_files(base, pool, str(recipe), tmp_path / "out", seed=5)
    assert (report.method, report.reads) == ("steps", 3)
    same(read_all_of(tmp_path / "out"), merge(base, pool, steps, seed=5))
    record = json.loads((tmp_path / "out" / "taskloom.json").read_text())["recipe"]
    assert record["options"]["steps"][0] == {"drop": {"p": 0.3, "seed": 5}}
    assert taskloom.verify(tmp_path / "out", everything=True).recomputed
    told = taskloom.explain(base, pool, steps, tmp_path / "other", seed=5)
    assert told["recipe"]["composition"] == report.composition


def read_all_of(folder):
    from taskloom.store.safetensors_dir import SafetensorsCheckpoint

    return read_all(SafetensorsCheckpoint(folder))


def test_the_command_line_takes_a_recipe_file(tmp_path):
    base = on_disk(tmp_path / "base", weights(0))
    words = ["merge", "--base", str(base), "-o", str(tmp_path / "out"), "--seed", "3"]
    for number in range(2):
        path = on_disk(tmp_path / f"e{number}", weights(number + 1))
        words += ["--expert", f"e{number}={path}"]
    steps = [{"drop": 0.3}, "elect", "total"]
    recipe = write(tmp_path / "mine.yaml", steps)
    result = CliRunner().invoke(program, [*words, "--method", str(recipe)])
    assert result.exit_code == 0, result.output
    pool = {f"e{k}": weights(k + 1) for k in range(2)}
    same(read_all_of(tmp_path / "out"), merge(base, pool, steps, seed=3))
    spelled = ["--method", "steps", "--set", "steps=[{drop: 0.3}, elect, total]", "--force"]
    assert CliRunner().invoke(program, [*words, *spelled]).exit_code == 0
    same(read_all_of(tmp_path / "out"), merge(base, pool, steps, seed=3))


def test_methods_lists_steps():
    found = {entry["name"]: entry for entry in taskloom.methods("step")}
    assert found["keep"]["summary"].startswith("Keep the largest magnitudes")
    assert found["weigh_by_size"]["reads"] == 2
    with pytest.raises(UnknownName):
        registry.get("step", "ties")
