"""Errors call a merge by what the user asked for, and experts that it does not have by their names."""

import pytest
import torch
from safetensors.torch import save_file

from taskloom import merge, merge_adapters, merge_files, registry
from taskloom.cli.main import invoke
from taskloom.errors import PlanError
from taskloom.merging.battery import make_base, make_experts, make_statistics
from taskloom.merging.explain import explain
from taskloom.merging.program import check_chain
from taskloom.merging.recipe import Recipe

METHODS = [entry.name for entry in registry.entries("merge")]
FULL = [entry.name for entry in registry.entries("merge") if "adapters" not in entry.needs]
NAMES = ("news", "cars", "plants")
#: method -> option that names an expert, as the command line takes it
NAMING = {
    "emr": "task",
    "tall_masks": "task",
    "twin_merging": "task",
    "greedy_soup": "ingredients",
}


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    base = make_base()
    made = zip(("base", *NAMES), [base, *make_experts(base, 3).values()], strict=True)
    for name, weights in made:
        (folder / name).mkdir()
        save_file({n: t.contiguous() for n, t in weights.items()}, folder / name / "model.safetensors")
    return folder


def test_a_recipe_gives_its_chain_its_name():
    for method in METHODS:
        assert Recipe.of(method).chain.called == method
    own = Recipe.read([{"keep": 0.2}, "elect", "total"])
    assert own.chain.called == str(own.chain) == "keep(0.2, model) -> elect -> total"
    assert Recipe("mine", {}, own.chain).chain.called == "mine"
    assert str(Recipe.of("ties").chain) == "keep(0.2, model) -> elect -> mean(kept) -> scale(1)"


@pytest.mark.parametrize("method", METHODS)
def test_what_a_pool_lacks(method):
    """No base, and too many or too few experts: the first words are the method's name."""
    chain = Recipe.of(method).chain
    low, high = chain.experts
    names = tuple(f"e{k}" for k in range(low))
    if chain.space == "delta":
        with pytest.raises(PlanError, match=rf"^{method} works on task vectors and needs the base"):
            check_chain(chain, names, has_base=False)
    for count in (low - 1, None if high is None else high + 1):
        if count:
            with pytest.raises(PlanError, match=rf"^{method} is defined for .*has {count} \("):
                check_chain(chain, tuple(f"e{k}" for k in range(count)), has_base=True)


@pytest.mark.parametrize("method", [m for m in FULL if Recipe.of(m).chain.needs])
def test_statistics_that_are_missing(method):
    base = make_base()
    with pytest.raises(PlanError, match=rf"^{method} needs the statistic"):
        merge(base, make_experts(base, 2), method)


def test_statistics_that_nothing_reads():
    base = make_base()
    experts = make_experts(base, 2)
    known = make_statistics(Recipe.of("fisher").chain, experts)
    with pytest.raises(PlanError, match=r"but ties reads none"):
        merge(base, experts, "ties", statistics=known)


def test_adapters_have_no_rule_for_full_tensors():
    base = make_base()
    for method in ("copa_merging",):
        with pytest.raises(PlanError, match=rf"^{method} works on the factors of adapters"):
            merge(base, make_experts(base, 2), method)
    with pytest.raises(PlanError, match=r"^task_analogy is defined for exactly 3 experts"):
        merge(base, make_experts(base, 2), "task_analogy")


def test_steps_of_ones_own_are_called_by_what_they_are():
    with pytest.raises(PlanError, match=r"^keep\(0.2, model\) -> total works on task vectors"):
        merge(None, make_experts(make_base(), 2), [{"keep": 0.2}, "total"])


@pytest.mark.parametrize("method", NAMING)
def test_an_expert_that_is_not_there(room, tmp_path, capsys, method):
    """``--check`` and ``--explain`` refuse it before a weight is read, as the merge does."""
    words = [f"--expert={name}={room / name}" for name in NAMES]
    words += ["--base", room / "base", "--method", method, "-o", tmp_path / "out"]
    given = {"task": "card", "ingredients": "[card, news]"}[NAMING[method]]
    for more in (["--check"], ["--explain"], []):
        asked = [*words, "--set", f"{NAMING[method]}={given}", *more]
        assert invoke(["--quiet", "merge", *map(str, asked)]) == 2
        said = capsys.readouterr().err
        assert said == (
            f"error: {method}: there is no expert 'card': did you mean 'cars'? The pool holds: "
            "news, cars, plants\n"
        )
    assert not list(tmp_path.iterdir())
    right = {"task": "cars", "ingredients": "[cars, news]"}[NAMING[method]]
    assert (
        invoke(["--quiet", "merge", *map(str, words), "--set", f"{NAMING[method]}={right}", "--check"])
        == 0
    )


@pytest.mark.parametrize("form", ["low_rank", "sparse"])
def test_both_forms_of_exclusive_parts_know_their_task(room, form):
    sources = [room / name for name in NAMES]
    with pytest.raises(PlanError, match=r"^twin_merging: there is no expert 'x'"):
        explain(room / "base", sources, "twin_merging", task="x", form=form)


def test_steps_that_name_an_expert(room):
    experts = {name: room / name for name in NAMES}
    own = ["tall_masks", {"take": {"task": "plantz"}}]
    with pytest.raises(PlanError, match=r"no expert 'plantz': did you mean 'plants'"):
        explain(room / "base", experts, own)


def test_nothing_is_left_where_a_merge_to_files_is_refused(room, tmp_path):
    sources = {name: room / name for name in NAMES}
    with pytest.raises(PlanError, match=r"^emr: there is no expert 'nobody'"):
        merge_files(room / "base", sources, "emr", tmp_path / "out", task="nobody")
    assert not list(tmp_path.iterdir())


def test_adapters_too(tmp_path):
    base = {"fc.weight": torch.zeros(4, 3)}
    folders = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        factors = {"lora_A": torch.ones(2, 3), "lora_B": torch.ones(4, 2)}
        save_file(
            {f"base_model.model.fc.{k}.weight": t for k, t in factors.items()},
            folder / "adapter_model.safetensors",
        )
        (folder / "adapter_config.json").write_text(
            '{"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["fc"]}'
        )
        folders.append(folder)
    with pytest.raises(PlanError, match=r"^task_analogy is defined for exactly 3 experts"):
        merge_adapters(base, folders, "task_analogy", tmp_path / "out")
    with pytest.raises(PlanError, match=r"^ties is not a linear combination"):
        merge_adapters(base, folders, "ties", tmp_path / "out")
