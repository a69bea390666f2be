"""Options and keys that are misspelled, unknown or out of range."""

from __future__ import annotations

import pytest

from .conftest import NAMES


def with_options(flags, method, *settings, more=()):
    words = [word for setting in settings for word in ("--set", setting)]
    return flags.words(*words, *more, method=method)


@pytest.mark.parametrize(
    ("method", "guess"), [("tise", "ties"), ("task_arithmatic", "task_arithmetic"), ("sleerp", "slerp")]
)
def test_a_misspelled_method(bench, method, guess):
    bench.refused(2, repr(method), f"did you mean '{guess}'", words=bench.words(method=method))


@pytest.mark.parametrize(
    ("method", "option", "guess"),
    [("ties", "densty", "density"), ("task_arithmetic", "scal", "scale"), ("slerp", "tt", "t")],
)
def test_a_misspelled_option(flags, method, option, guess):
    words = with_options(flags, method, f"{option}=0.5")
    flags.refused(2, repr(option), f"'{guess}'", words=words)


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        ("ties", "density=1.5"),
        ("ties", "density=-1"),
        ("ties", "density=.nan"),
        ("dare_linear", "density=0"),
        ("dare_ties", "density=1.01"),
        ("della", "epsilon=2"),
        ("breadcrumbs", "density=-0.1"),
        ("breadcrumbs", "gamma=1.5"),
        ("sce", "density=2"),
        ("task_arithmetic", "scale=.inf"),
        ("task_arithmetic", "scale=.nan"),
        ("task_arithmetic", "scale=high"),
        ("average", "weights=[0, 0]"),
        ("average", "weights=[1]"),
        ("average", "weights=[1, 2, 3]"),
        ("average", "weights=[1, .nan]"),
        ("average", "weights=[-1, 1]"),
        ("slerp", "t=.nan"),
    ],
)
def test_a_number_out_of_range(flags, method, setting):
    name = setting.partition("=")[0]
    needs_seed = method.startswith(("dare", "della"))
    more = ("--seed", "1") if needs_seed else ()
    flags.refused(2, name.rstrip("s"), words=with_options(flags, method, setting, more=more))


def test_without_a_seed_two_runs_are_one(flags):
    folders = [flags.root / "first", flags.root / "second"]
    for folder in folders:
        assert flags.merge(method="dare_ties", out=folder)[0] == 0
    first, second = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert first == second


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--threads", "0"], "0"),
        (["--workers", "0"], "0"),
        (["--threads", "many"], "'many'"),
        (["--slice-size", "0"], "'0'"),
        (["--max-shard-size", "-5GB"], "'-5GB'"),
        (["--max-shard-size", "5 apples"], "'5 apples'"),
        (["--dtype", "float31"], "'float31'"),
        (["--dtype", "int8"], "'int8'"),
        (["--digest", "some"], "'some'"),
        (["--thread", "2"], "--threads"),
        (["--forse"], "--force"),
        (["--set", "scale"], "OPTION=VALUE"),
        (["--set", "scale=1", "--set", "scale=2"], "twice"),
        (["--set", "scale=[1"], "YAML"),
        (["--rank", "4"], "--as-adapter"),
    ],
)
def test_a_flag_out_of_range(flags, words, said):
    flags.refused(2, said, words=flags.words(*words))


def test_one_expert_given_twice_under_one_name(flags):
    words = [word.replace("/two", "/one") for word in flags.words()]
    flags.refused(3, "'", "name", words=words)


def test_too_few_experts(flags):
    words = flags.words(method="slerp")
    at = words.index("--expert")
    flags.refused(2, "slerp", "2", words=words[:at] + words[at + 2 :])


def test_a_method_that_needs_a_base_without_one(flags):
    words = flags.words()
    at = words.index("--base")
    flags.refused(2, "base", words=words[:at] + words[at + 2 :])


# ---- mergekit files


TEXT = """
merge_method: ties
base_model: BASE
models:
  - {model: ONE, parameters: {weight: 1, density: 0.5}}
  - {model: TWO, parameters: {weight: 1, density: 0.5}}
parameters: {normalize: true}
"""


def recipe(yaml, old="", new=""):
    assert old in TEXT
    text = TEXT.replace(old, new) if old else TEXT
    for name in NAMES:
        text = text.replace(name.upper(), str(yaml.root / name))
    (yaml.root / "recipe.yaml").write_text(text)
    return ["merge", yaml.root / "recipe.yaml", yaml.out]


def test_the_file_without_a_fault(yaml):
    assert yaml.run(*recipe(yaml))[0] == 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("merge_method:", "merge_methd:", "'merge_method'"),
        ("base_model:", "base_modle:", "'base_model'"),
        ("density: 0.5}}\n  - {model: TWO", "densty: 0.5}}\n  - {model: TWO", "'density'"),
        ("normalize", "normalise", "'normalize'"),
        ("models:", "modells:", "'models'"),
        ("parameters: {normalize: true}", "dtpe: float16", "'dtype'"),
    ],
)
def test_a_misspelled_key(yaml, old, new, said):
    yaml.refused(2, str(yaml.root / "recipe.yaml"), said, words=recipe(yaml, old, new))


def test_weights_that_sum_to_nothing(yaml):
    """mergekit writes a model of NaN."""
    text = "merge_method: linear\nmodels:\n"
    for name in NAMES[1:]:
        text += f"  - {{model: {yaml.root / name}, parameters: {{weight: 0}}}}\n"
    (yaml.root / "recipe.yaml").write_text(text)
    yaml.refused(2, "weight", words=["merge", yaml.root / "recipe.yaml", yaml.out])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("density: 0.5", "density: 1.5", "density"),
        ("density: 0.5", "density: -1", "density"),
        ("density: 0.5", "density: [0.5, 2]", "density"),
        ("density: 0.5", "density: much", "density"),
        ("density: 0.5", "density: .nan", "density"),
        ("weight: 1", "weight: .inf", "weight"),
        ("normalize: true", "normalize: maybe", "normalize"),
        ("normalize: true", "lambda: .nan", "lambda"),
        ("parameters: {normalize: true}", "dtype: float31", "float31"),
    ],
)
def test_a_parameter_out_of_range(yaml, old, new, said):
    yaml.refused(2, said, words=recipe(yaml, old, new))


@pytest.mark.parametrize(
    "text", ["", "[]", "merge_method: [", "a: 1\na: 2", "\t", "null", "merge_method: ties"]
)
def test_a_file_that_is_no_recipe(yaml, text):
    (yaml.root / "recipe.yaml").write_text(text)
    yaml.refused(2, "recipe.yaml", words=["merge", yaml.root / "recipe.yaml", yaml.out])


def test_everything_is_checked_before_weights_are_read(yaml):
    """--check finds what can be found without reading them, and says the same."""
    words = recipe(yaml, "density: 0.5", "density: 7")
    told = yaml.refused(2, "density", words=words)
    assert yaml.refused(2, "density", words=[*words, "--check"]) == told


def test_check_of_flags(flags):
    words = with_options(flags, "ties", "density=7")
    assert flags.refused(2, "density", words=words) == flags.refused(
        2, "density", words=[*words, "--check"]
    )
