"""Bad input, for every registered method: one clear error, and nothing half-written.

Options out of range (from the schema), a missing base, missing statistics, too few experts, equal
experts for spectral methods, a NaN in one tensor; and task vectors of zero, which give the base. What
concerns files goes through the command line, into a folder that must stay as it was.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

import annotated_types
import pytest
import torch
from safetensors.torch import load_file, save_file

from taskloom import merge, registry
from taskloom.cli.main import invoke
from taskloom.errors import CheckpointError, PlanError
from taskloom.merging.battery import make_base, make_experts, make_statistics
from taskloom.merging.recipe import Recipe

ENTRIES = registry.entries("merge")
METHODS = [entry.name for entry in ENTRIES]
#: those that take full checkpoints
FULL = [entry.name for entry in ENTRIES if "adapters" not in entry.needs]
#: numbers that may be anything finite: factors, and seeds
FREE = {"scale", "weights", "values", "preference", "seed", "parts_seed", "t"}


def chain_of(method):
    return Recipe.of(method).chain


# --- options ----------------------------------------------------------------------------------


def leaves(hint: Any, limits: tuple[Any, ...] = ()) -> list[tuple[Any, tuple[Any, ...]]]:
    """Every plain type that an annotation admits, with the limits on it."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        inner, *more = typing.get_args(hint)
        found = [each for m in more for each in getattr(m, "metadata", [m])]
        return leaves(inner, (*limits, *found))
    if origin is typing.Literal:
        return [(typing.Literal, ())]
    if origin in (Sequence, list, tuple):
        return [(Sequence, ()), *leaves(typing.get_args(hint)[0])]
    if origin is Mapping:
        return [(Mapping, ()), *leaves(typing.get_args(hint)[1])]
    if typing.get_args(hint):
        return [leaf for part in typing.get_args(hint) for leaf in leaves(part, limits)]
    return [(hint, limits)]


def wrong_values(hint: Any, limits: tuple[Any, ...]) -> list[Any]:
    """Values that an option of this type must refuse."""
    kinds = leaves(hint, limits)
    types = {kind for kind, _ in kinds}
    bad: list[Any] = []
    if bool in types:
        return ["perhaps", 0.5, None, []]
    if typing.Literal in types:
        return ["no such word", 1, None]
    if types & {int, float}:
        bad += [math.nan, math.inf, -math.inf, "much", True]
    if Sequence in types and types & {int, float}:
        bad += [[math.nan, 1.0], [1.0, math.inf]]
    if Mapping in types:
        bad += [{"x": math.nan}, {"x": "much"}]
    if int in types and float not in types:
        bad += [0.5]
    if Sequence in types and str in types and not types & {int, float}:
        bad += [3, [1, 2]]
    for limit in (each for _, several in kinds for each in several):
        match limit:
            case annotated_types.Ge(ge=edge):
                bad += [edge - 1, math.nextafter(edge, -math.inf)]
            case annotated_types.Gt(gt=edge):
                bad += [edge, edge - 1]
            case annotated_types.Le(le=edge):
                bad += [edge + 1, math.nextafter(edge, math.inf)]
            case annotated_types.Lt(lt=edge):
                bad += [edge, edge + 1]
    return bad


@pytest.mark.parametrize("method", METHODS)
def test_options_out_of_range(method):
    hints = typing.get_type_hints(registry.get("merge", method).function, include_extras=True)
    for option in registry.get("merge", method).schema.model_fields:
        bad = wrong_values(hints[option], ())
        assert bad or option in ("task", "file"), f"{option} is never refused"
        for value in bad:
            with pytest.raises(PlanError) as caught:
                Recipe.of(method, **{option: value})
            said = str(caught.value)
            assert said.startswith(f"{method}: "), said
            assert option in said, said
            assert "json-or-python" not in said, said
            assert "\n" not in said, said


def test_every_number_has_limits_or_may_be_anything():
    """A new numeric option without limits must be meant so."""
    for entry in ENTRIES:
        hints = typing.get_type_hints(entry.function, include_extras=True)
        for option in entry.schema.model_fields:
            kinds = leaves(hints[option])
            numeric = [limits for kind, limits in kinds if kind in (int, float)]
            if numeric and not any(numeric):
                assert option in FREE, f"{entry.name}: {option} has no limits"


def test_leaves_see_every_limit():
    from pydantic import Field

    share = typing.Annotated[float, Field(ge=0, le=1)]
    assert {kind for kind, _ in leaves(share | Mapping[str, share] | None)} == {float, Mapping, NoneType}
    assert wrong_values(share, ())[-4:] == [-1, -5e-324, 2, math.nextafter(1, 2)]


@pytest.mark.parametrize("method", METHODS)
def test_options_that_do_not_exist(method):
    with pytest.raises(PlanError, match=rf"^{method}: unknown option 'densitty'.*Options: "):
        Recipe.of(method, densitty=0.5)


@pytest.mark.parametrize("method", FULL)
def test_weights_that_do_not_fit_the_pool(method):
    if "weights" not in registry.get("merge", method).schema.model_fields:
        return
    base = make_base()
    experts = make_experts(base, max(3, chain_of(method).experts[0]))
    high = chain_of(method).experts[1]
    if high is not None:
        experts = dict(list(experts.items())[:high])
    given = {"statistics": make_statistics(chain_of(method), experts)}
    for weights in ([1.0] * 7, {"x": 1.0, "nobody": 1.0}):
        with pytest.raises(PlanError, match=r"weight"):
            merge(base, experts, method, weights=weights, **given)


# --- pools, in memory -------------------------------------------------------------------------


@pytest.mark.parametrize("method", FULL)
def test_a_missing_base(method):
    chain = chain_of(method)
    base = make_base()
    experts = make_experts(base, 3 if chain.experts[1] is None else chain.experts[1])
    given = {"statistics": make_statistics(chain, experts)}
    if chain.space == "delta":
        with pytest.raises(PlanError, match="works on task vectors and needs the base"):
            merge(None, experts, method, **given)
    else:
        merge(None, experts, method, **given)


@pytest.mark.parametrize("method", FULL)
def test_too_few_and_too_many_experts(method):
    low, high = chain_of(method).experts
    base = make_base()
    wrong = [count for count in (low - 1, None if high is None else high + 1) if count]
    for count in wrong:
        experts = make_experts(base, count)
        given = {"statistics": make_statistics(chain_of(method), experts)}
        with pytest.raises(PlanError, match=rf"is defined for .* experts?, but the pool has {count} \("):
            merge(base, experts, method, **given)
    assert wrong or low == 1


def test_methods_that_need_two_are_known():
    """So that the test above tests something."""
    assert {m for m in FULL if chain_of(m).experts[0] > 1} >= {
        "slerp", "nuslerp", "task_analogy", "arcee_fusion", "model_stock",
    }  # fmt: skip


@pytest.mark.parametrize("method", FULL)
def test_missing_statistics(method):
    chain = chain_of(method)
    base = make_base()
    experts = make_experts(base, 3 if chain.experts[1] is None else chain.experts[1])
    if not chain.needs:
        with pytest.raises(PlanError, match="statistic"):
            merge(base, experts, method, statistics={"nobody": []})
        return
    for given in (None, {"x": make_statistics(chain, experts)["x"]}):
        with pytest.raises(PlanError, match="statistic"):
            merge(base, experts, method, statistics=given)


@pytest.mark.parametrize("method", ["tsv_merge", "iso_cts"])
def test_equal_experts_of_spectral_methods_are_named(method):
    base = {"w": torch.zeros(20, 20)}
    experts = make_experts(base, 3)
    experts["again"] = {n: t.clone() for n, t in experts["y"].items()}
    with pytest.raises(CheckpointError, match=r"the experts 'y' and 'again' have the same task vector"):
        merge(base, experts, method)
    merge(base, experts, method, duplicates="share")
    experts["again"] = {n: -2 * t for n, t in experts["y"].items()}
    with pytest.raises(CheckpointError, match=r"but for a factor \(cosine -1\.0"):
        merge(base, experts, method)


@pytest.mark.parametrize("method", ["iso_c", "knots"])
def test_equal_experts_do_no_harm_elsewhere(method):
    """They add no direction: the sum of two equal ones is twice the one, and spans what it spans."""
    base = {"w": torch.zeros(6, 5)}
    (expert,) = make_experts(base, 1).values()
    options = {"density": 1.0, "scale": 1.0} if method == "knots" else {}
    one = merge(base, [expert], method, **options)["w"]
    two = merge(base, [expert, dict(expert)], method, **options)["w"]
    factor = 2 if method == "iso_c" else 1
    assert torch.allclose(two, factor * one, atol=1e-5)


# --- files, by the command line ---------------------------------------------------------------


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A base, three experts, their statistics; a copy of each with a NaN, and copies of the base."""
    folder = tmp_path_factory.mktemp("refusals")
    base = {"matrix": torch.linspace(-1, 1, 30).reshape(6, 5), "vector": torch.ones(7)}
    experts = make_experts(base, 3)
    for name, weights in {"base": base, **experts}.items():
        save(folder / name, weights)
    sick = {n: t.clone() for n, t in experts["z"].items()}
    sick["matrix"][1, 2] = math.nan
    save(folder / "sick", sick)
    for name in ("same-x", "same-y", "same-z"):
        save(folder / name, base)
    return folder, base, experts


def save(folder, weights):
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")


def names_of(method):
    high = chain_of(method).experts[1]
    return ["x", "y", "z"] if high is None else ["x", "y", "z"][:high]


def statistic_words(method, folder, experts):
    found = []
    for name, several in make_statistics(chain_of(method), experts).items():
        for each in several:
            path = folder / f"{name}-{each.kind}.safetensors"
            if not path.exists():
                each.save(path)
            found += ["--statistic", f"{name}={path}"]
    return found


def run(capsys, *words):
    status = invoke(["--quiet", *[str(word) for word in words]])
    return status, capsys.readouterr().err


@pytest.mark.parametrize("method", FULL)
def test_files_that_cannot_be_merged_leave_nothing(room, tmp_path, capsys, method):
    """A NaN, an option out of range, no base, statistics of nobody: exit code, one line, no trace."""
    folder, _, experts = room
    names = names_of(method)
    several = {name: experts[name] for name in names}
    known = statistic_words(method, folder, several)
    good = [f"--expert={name}={folder / name}" for name in names]
    last = f"--expert={names[-1]}={folder / 'sick'}"
    origin = ["--base", folder / "base"]
    words = ["--method", method, "-o", tmp_path / "out", *known]
    tried = [
        ([*origin, *good[:-1], last, *words], 9, "'matrix' of expert " + repr(names[-1])),
        ([*origin, *good, *words, "--set", "nonsense=1"], 2, "unknown option 'nonsense'"),
        ([*origin, *good, *words, "--statistic", f"nobody={folder / 'x'}"], 2, "nobody"),
    ]
    if chain_of(method).space == "delta":
        tried.append(([*good, *words], 2, "needs the base"))
    for given, code, part in tried:
        status, said = run(capsys, "merge", *given)
        assert status == code, said
        assert said.startswith("error: "), said
        assert said.count("\n") == 1, said
        assert part in said, said
        assert not list(tmp_path.iterdir()), [path.name for path in tmp_path.iterdir()]


@pytest.mark.parametrize("method", FULL)
def test_task_vectors_of_zero_give_the_base(room, tmp_path, capsys, method):
    folder, base, experts = room
    names = names_of(method)
    words = [f"--expert={name}={folder / f'same-{name}'}" for name in names]
    words += statistic_words(method, folder, {name: experts[name] for name in names})
    status, said = run(
        capsys, "merge", "--base", folder / "base", *words, "--method", method, "-o", tmp_path / "out"
    )
    assert status == 0, said
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in base.items():
        if chain_of(method).space == "delta":
            assert torch.equal(found[name], tensor), name
        else:
            assert torch.allclose(found[name], tensor, atol=1e-6), name
