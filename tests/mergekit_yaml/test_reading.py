"""The file: documents, names, order, and every key that is refused."""

import pytest

from taskloom.errors import PlanError
from taskloom.runs.mergekit.reading import looks_like_mergekit, read_documents
from taskloom.runs.mergekit.schema import ModelName

PLAIN = "merge_method: linear\nmodels: [{model: a}, {model: b}]\n"


def read(tmp_path, text):
    path = tmp_path / "f.yaml"
    path.write_text(text)
    return read_documents(path)


def test_what_looks_like_a_file_of_mergekits(tmp_path):
    for name, text, wanted in (
        ("a.yaml", PLAIN, True),
        ("b.yml", "# first\nmodels: []\nmerge_method: ties\n", True),
        ("c.yaml", "base:\n  merge_method: ties\n", False),
        ("d.json", PLAIN, False),
    ):
        (tmp_path / name).write_text(text)
        assert looks_like_mergekit(tmp_path / name) is wanted
    assert not looks_like_mergekit(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("org/m", ("org/m", None, None, None)),
        ("org/m@v1", ("org/m", "v1", None, None)),
        ("m+l", ("m", None, "l", None)),
        ("m@1+l@2", ("m", "1", "l", "2")),
        ({"model": "m@1", "lora": "l"}, ("m", "1", "l", None)),
        ({"model": {"path": "m", "revision": "1"}, "lora": {"path": "l"}}, ("m", "1", "l", None)),
    ],
)
def test_names_of_models(text, wanted):
    name = ModelName.model_validate(text)
    assert (name.path, name.revision, name.lora, name.lora_revision) == wanted
    assert ModelName.model_validate(str(name)) == name


@pytest.mark.parametrize("text", ["", "a+b+c", "a@1@2", "+l", {"model": "m", "lroa": "l"}, 3])
def test_names_that_are_none(text):
    with pytest.raises(ValueError, match=r"."):
        ModelName.model_validate(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("merge_methd: linear\nmodels: [{model: a}]", "did you mean 'merge_method'"),
        (PLAIN + "dtype: int64", "dtype"),
        (PLAIN + "out_dtype: half", "out_dtype"),
        (PLAIN + "models: [{model: c}]", "'models' is given twice"),
        ("merge_method: linear\nmodels: [{model: a, weight: 1}]", "unknown key 'weight'"),
        ("merge_method: linear", "exactly one of models, slices, modules is needed, found none"),
        (PLAIN + "slices: [{sources: [{model: a, layer_range: [0, 1]}]}]", "found models, slices"),
        (PLAIN + "tokenizer_source: base\ntokenizer: {source: base}", "cannot both be given"),
        (PLAIN + "tokenizer: {sorce: base}", "did you mean 'source'"),
        (PLAIN + "tokenizer: {pad_to_multiple_of: 0}", "pad_to_multiple_of"),
        ("merge_method: p\nslices: [{sources: [{model: a, layer_range: [2, 2]}]}]", "holds no layers"),
        (
            "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 2]}, "
            "{model: b, layer_range: [0, 3]}]}]",
            "equally many layers",
        ),
        (
            "merge_method: p\nslices: [{sources: [{model: a, layer_range: [0, 2]}], "
            "residual_weight: 1}]",
            "residual_weight has no effect in mergekit",
        ),
        ("merge_method: [", "is not YAML"),
        ("- 1", "expected keys and values"),
        ("", "is empty"),
    ],
)
def test_what_is_refused(tmp_path, text, said):
    with pytest.raises(PlanError) as caught:
        read(tmp_path, text)
    assert said in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(PlanError, match="cannot be read"):
        read_documents(tmp_path / "none.yaml")


def test_documents_come_after_those_they_use(tmp_path):
    final = "merge_method: linear\nmodels: [{model: two}, {model: x}]\n"
    two = "name: two\nmerge_method: linear\nmodels: [{model: one}, {model: y}]\n"
    one = "# a remark\nname: one\nmerge_method: linear\nmodels: [{model: z}, {model: y}]\n"
    found = read(tmp_path, "---\n".join([final, two, one]))
    assert [d.name for d in found] == ["one", "two", None]
    assert [d.text for d in found] == [one, two, final]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PLAIN + "---\n" + PLAIN, "2 documents have no name"),
        (f"name: x\n{PLAIN}---\nname: x\n{PLAIN}", "two documents have one name"),
        (f"name: ../x\n{PLAIN}", "cannot be a folder's name"),
        (f"name: a\n{PLAIN}", "in a circle: a -> a"),
        (
            f"name: a\n{PLAIN.replace('{model: a}', '{model: c}')}---\nname: b\n{PLAIN}",
            "circle: a -> b -> a",
        ),
    ],
)
def test_documents_that_cannot_be_ordered(tmp_path, text, said):
    with pytest.raises(PlanError) as caught:
        read(tmp_path, text)
    assert said in str(caught.value)
