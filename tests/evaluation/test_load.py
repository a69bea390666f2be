import hashlib

import numpy as np
import pytest

from taskloom.errors import DataError, PlanError
from taskloom.evaluation.data import Examples
from taskloom.evaluation.examples import content_keys
from taskloom.evaluation.load import load_task
from taskloom.evaluation.task import get_task

from .conftest import csv_of, sentence


def opened(data):
    return data.test.open("test")


def inputs_of(examples):
    if isinstance(examples.inputs, list):
        return set(examples.inputs)
    return {each.tobytes() for each in examples.inputs}


def test_every_example_is_in_one_split(write_task):
    data = load_task(write_task(csv_of(300)))
    test = opened(data)
    parts = [inputs_of(part) for part in (data.train, data.validation, test)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert len(data.train) + len(data.validation) + len(test) + data.removed_duplicates == 300
    assert data.removed_repeats == 0
    assert 0.1 < len(test) / 300 < 0.3
    assert data.n_test == len(test)


def test_labels_follow_the_declared_order(write_task):
    path = write_task(csv_of(60), labels=["yes_label", "no_label"])
    data = load_task(path)
    for text, label in zip(data.train.inputs, data.train.labels, strict=True):
        number = next(i for i in range(60) if sentence(i) == text)
        assert label == 1 - number % 2
    assert data.train.labels.dtype == np.int64


def test_the_split_does_not_depend_on_other_rows_or_on_their_order(write_task):
    lines = csv_of(200).splitlines()
    one = load_task(write_task("\n".join(lines)), max_train=None)
    other = load_task(write_task("\n".join(lines[:1] + lines[:0:-1][:150])))
    assert inputs_of(opened(other)) <= inputs_of(opened(one))


def test_the_split_does_not_depend_on_the_task_or_the_sampling_seed(write_task):
    tests = [
        inputs_of(opened(load_task(write_task(csv_of(100), name=name), seed=seed)))
        for name, seed in [("a", 0), ("b", 5)]
    ]
    assert tests[0] == tests[1]


def test_another_split_seed_gives_another_split(write_task):
    tests = [inputs_of(opened(load_task(write_task(csv_of(100), split={"seed": s})))) for s in (0, 1)]
    assert tests[0] != tests[1]


def test_loading_twice_gives_the_same_digest(write_task):
    path = write_task(csv_of(80))
    assert load_task(path).digest == load_task(path).digest
    assert load_task(path).digest != load_task(path, max_train=20).digest


def test_the_digest_sees_a_changed_label(write_task):
    content = csv_of(80)
    one = load_task(write_task(content)).digest
    head, first, rest = content.split("\n", 2)
    flipped = first.replace("no_label", "yes_label")
    assert load_task(write_task("\n".join([head, flipped, rest]))).digest != one


def test_given_files(write_task, tmp_path):
    lines = csv_of(90).splitlines()
    (tmp_path / "a.csv").write_text("\n".join(lines[:61]))
    (tmp_path / "b.csv").write_text("\n".join([lines[0], *lines[61:]]))
    path = write_task(
        source={"kind": "file", "path": {"learn": "a.csv", "judge": "b.csv"}},
        split={"kind": "given", "train": "learn", "test": "judge", "validation_share": 0.25},
    )
    data = load_task(path)
    assert inputs_of(opened(data)) == {sentence(i) for i in range(60, 90)}
    assert 5 <= len(data.validation) <= 25
    assert inputs_of(data.train) | inputs_of(data.validation) <= {sentence(i) for i in range(60)}


def test_given_column_with_validation(write_task):
    parts = ["train"] * 60 + ["dev"] * 20 + ["test"] * 20
    rows = [f"{sentence(i)},{'no_label' if i % 2 else 'yes_label'},{p}" for i, p in enumerate(parts)]
    split = {"kind": "given", "column": "fold", "validation": "dev"}
    data = load_task(write_task("text,label,fold\n" + "\n".join(rows), split=split))
    assert (len(data.validation), data.n_test) == (20, 20)
    with pytest.raises(DataError, match="row 61 has the split 'dev', declared are 'train', 'test'"):
        load_task(write_task(split={"kind": "given", "column": "fold"}))


def test_groups_stay_together(write_task):
    rows = [f"{sentence(i)},{'no_label' if i % 2 else 'yes_label'},g{i // 10}" for i in range(300)]
    data = load_task(write_task("text,label,who\n" + "\n".join(rows), split={"group": "who"}))
    group = {sentence(i): i // 10 for i in range(300)}
    sides = [{group[t] for t in p.inputs} for p in (data.train, data.validation, opened(data))]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]


def test_exact_repeats_are_kept_once(write_task):
    content = csv_of(80)
    repeated = content + "\n".join(
        line.upper().replace("_LABEL", "_label").replace("NO", "no").replace("YES", "yes")
        for line in content.splitlines()[1:11]
    )
    data = load_task(write_task(repeated))
    assert data.removed_repeats == 10


def test_near_duplicates_leave_the_earlier_split(write_task):
    long = [sentence(i, words=14) for i in range(150)]
    close = [f"{text} indeed" for text in long]
    rows = [f"{t},{'no_label' if i % 2 else 'yes_label'}" for i, t in enumerate(long + close)]
    data = load_task(write_task("text,label\n" + "\n".join(rows)))
    held = inputs_of(opened(data)) | inputs_of(data.validation)
    stems = {text.removesuffix(" indeed") for text in held}
    assert data.removed_duplicates > 20
    assert not {text.removesuffix(" indeed") for text in data.train.inputs} & stems
    lenient = load_task(write_task(near_duplicate=1.0))
    assert lenient.removed_duplicates < data.removed_duplicates


def test_test_examples_are_never_taken_out(write_task):
    long = [sentence(i, words=14) for i in range(100)]
    rows = [f"{t},{'no_label' if i % 2 else 'yes_label'}" for i, t in enumerate(long)]
    alone = inputs_of(opened(load_task(write_task("text,label\n" + "\n".join(rows)))))
    rows += [f"{t} indeed,no_label" for t in long]
    both = inputs_of(opened(load_task(write_task("text,label\n" + "\n".join(rows)))))
    assert alone <= both


# --- subsamples


def test_samples_keep_class_shares_and_nest(write_task):
    rows = [f"{sentence(i)},{'yes_label' if i % 4 == 0 else 'no_label'}" for i in range(400)]
    path = write_task("text,label\n" + "\n".join(rows))
    full, small, smaller = (load_task(path, max_train=n) for n in (None, 100, 40))
    share = full.train.counts(2)[1] / len(full.train)
    assert len(small.train) == 100
    assert abs(small.train.counts(2)[1] / 100 - share) < 0.01
    assert inputs_of(smaller.train) <= inputs_of(small.train) <= inputs_of(full.train)
    assert inputs_of(load_task(path, max_train=40, seed=1).train) != inputs_of(smaller.train)


def test_max_validation_and_max_test(write_task):
    data = load_task(write_task(csv_of(300)), max_validation=7, max_test=11)
    assert (len(data.validation), data.n_test, len(opened(data))) == (7, 11, 11)


@pytest.mark.parametrize("n", [4, 16, 64])
def test_few_labels_in_total(write_task, n):
    data = load_task(write_task(csv_of(400)), n_labels=n)
    assert len(data.train) + len(data.validation) == n
    assert len(data.validation) == n // 4
    assert min(data.train.counts(2)) >= 1


def test_a_rare_class_gets_one_example(write_task):
    rows = [f"{sentence(i)},{'yes_label' if i % 50 == 0 else 'no_label'}" for i in range(500)]
    data = load_task(write_task("text,label\n" + "\n".join(rows)), n_labels=16)
    assert min(data.train.counts(2)) >= 1


def test_too_few_labels(write_task):
    with pytest.raises(DataError, match=r"2 labels are too few for 2 classes. Give at least 3"):
        load_task(write_task(csv_of(50)), n_labels=2)


def test_n_labels_excludes_max_train(write_task):
    with pytest.raises(PlanError, match="exclude each other"):
        load_task(write_task(csv_of(50)), n_labels=20, max_train=10)


def test_nothing_to_draw(write_task):
    with pytest.raises(DataError, match="'toy': 0 examples cannot be drawn"):
        load_task(write_task(csv_of(50)), max_test=0)


# --- templates, cleaning


def test_template_joins_columns(write_task):
    rows = [f"{sentence(i)},c{i} {sentence(900 + i)},{'ab'[i % 2]}" for i in range(60)]
    columns = {"inputs": ["q", "c"], "label": "y"}
    path = write_task(
        "q,c,y\n" + "\n".join(rows), columns=columns, labels=["a", "b"], template="{q} [SEP] {c}"
    )
    assert all(" [SEP] c" in text for text in load_task(path).train.inputs)


def test_braces_in_the_data_are_only_text(write_task):
    content = csv_of(60).replace("amber", "{label}")
    assert any("{label}" in text for text in load_task(write_task(content)).train.inputs)


def test_white_space_is_collapsed_or_kept(write_task):
    content = csv_of(60).replace("amber", "amber  x")
    assert not any("  " in text for text in load_task(write_task(content)).train.inputs)
    assert any("  " in text for text in load_task(write_task(content, whitespace="keep")).train.inputs)


# --- bad data


def test_empty_file(write_task):
    with pytest.raises(DataError, match=r"data.csv is empty"):
        load_task(write_task(b""))


def test_only_a_header(write_task):
    with pytest.raises(DataError, match="holds no rows"):
        load_task(write_task("text,label\n"))


def test_everything_cleaned_away(write_task):
    clean = [{"rule": "keep", "column": "text", "values": ["nothing"]}]
    with pytest.raises(DataError, match="no examples are left after the cleaning rules"):
        load_task(write_task(csv_of(10), clean=clean))


def test_one_class(write_task):
    with pytest.raises(DataError, match=r"all \d+ train examples are of one class, 'no_label'"):
        load_task(write_task(csv_of(50, labels=["no_label"])))


def test_a_declared_label_that_never_occurs(write_task):
    with pytest.raises(DataError, match="no train example has the declared label 'maybe'"):
        load_task(write_task(csv_of(50), labels=["no_label", "yes_label", "maybe"]))


def test_a_label_outside_the_declared_set(write_task):
    content = csv_of(10) + "something,yes_lable\n"
    with pytest.raises(DataError) as caught:
        load_task(write_task(content))
    message = str(caught.value)
    assert "1 of 11 labels are not declared, e.g. 'yes_lable' in row 11" in message
    assert "did you mean 'yes_label'" in message
    assert "'no_label', 'yes_label'" in message


@pytest.mark.parametrize("blank", ["", "   "])
def test_blank_text(write_task, blank):
    with pytest.raises(DataError, match=r"column 'text' of row 11 is empty.*rule: keep"):
        load_task(write_task(csv_of(10) + f"{blank},no_label\n"))


def test_the_rule_that_the_message_proposes_helps(write_task):
    clean = [{"rule": "keep", "column": "text", "matches": r"\S"}]
    assert load_task(write_task(csv_of(60) + ",no_label\n", clean=clean))


def test_a_missing_column(write_task):
    with pytest.raises(DataError, match=r"no column 'txt' in the data: did you mean 'text'\?"):
        load_task(write_task(csv_of(10), columns={"inputs": "txt", "label": "label"}))


def test_too_little_data_to_split(write_task):
    with pytest.raises(DataError, match="split is empty"):
        load_task(write_task(csv_of(2)))


def test_text_that_is_not_utf8(write_task):
    with pytest.raises(DataError, match=r"data.csv is not utf-8 text: byte 0xe9 at offset 14"):
        load_task(write_task(b"text,label\ncaf\xe9,no_label\n"))


def test_its_encoding_named(write_task):
    content = csv_of(60).replace("amber", "caf\xe9").encode("latin-1")
    source = {"kind": "file", "path": "data.csv", "encoding": "latin-1"}
    assert any("caf\xe9" in text for text in load_task(write_task(content, source=source)).train.inputs)


# --- vectors and images


def vector_task(write_task, rows, **changes):
    return write_task(
        "a,b,label\n" + "\n".join(rows),
        modality="vector",
        columns={"inputs": ["a", "b"], "label": "label"},
        labels=["x", "y"],
        **changes,
    )


def test_columns_of_numbers_become_vectors(write_task):
    rows = [f"{i},{i * 0.5},{'xy'[i % 2]}" for i in range(60)]
    data = load_task(vector_task(write_task, rows))
    assert data.train.inputs.shape == (len(data.train), 2)
    assert data.train.inputs.dtype == np.float32
    assert np.array_equal(data.train.inputs[:, 1], data.train.inputs[:, 0] * 0.5)


@pytest.mark.parametrize(("bad", "match"), [("word", "not numbers"), ("nan", "NaN or infinity")])
def test_what_is_no_number(write_task, bad, match):
    rows = [f"{i},{i},{'xy'[i % 2]}" for i in range(10)] + [f"1,{bad},x"]
    with pytest.raises(DataError, match=f"row 11 holds .*{match}"):
        load_task(vector_task(write_task, rows))


def test_images_declared_as_vectors_are_refused():
    task = get_task("digits_ten").model_copy(update={"modality": "vector"})
    with pytest.raises(DataError, match="2 dimensions, expected 1"):
        load_task(task)


@pytest.mark.parametrize(
    ("name", "features", "classes"), [("wine", 13, 3), ("iris", 4, 3), ("breast_cancer", 30, 2)]
)
def test_tabular_built_ins(name, features, classes):
    data = load_task(name)
    assert data.train.inputs.shape[1:] == (features,)
    assert min(data.train.counts(classes)) > 0


def test_iris_has_a_repeated_flower():
    assert load_task("iris").removed_repeats == 1


DIGITS = ["parity", "large", "loop", "prime", "mod3", "ten"]


def rule_of(name, digit):
    """What each digits task asks, restated."""
    return {
        "parity": ["even", "odd"][digit % 2],
        "large": "large" if digit >= 5 else "small",
        "loop": "loop" if digit in {0, 6, 8, 9} else "open",
        "prime": "prime" if digit in {2, 3, 5, 7} else "composite",
        "mod3": ["zero", "one", "two"][digit % 3],
        "ten": str(digit),
    }[name]


@pytest.mark.parametrize("name", DIGITS)
def test_digits_labels(name):
    from sklearn.datasets import load_digits

    raw = load_digits()
    digit = {np.float32(x / 16).tobytes(): int(y) for x, y in zip(raw.images, raw.target, strict=True)}
    data = load_task(f"digits_{name}")
    assert data.train.inputs.shape[1:] == (8, 8)
    for image, label in zip(data.train.inputs, data.train.labels, strict=True):
        assert data.task.label_names[label] == rule_of(name, digit[image.tobytes()])


def test_all_digits_tasks_hold_back_the_same_test_images():
    tests = [inputs_of(opened(load_task(f"digits_{name}"))) for name in DIGITS]
    assert all(each == tests[0] for each in tests)
    assert len(tests[0]) == 469


def test_the_thirds_of_digits_are_disjoint_and_never_touch_test():
    task = get_task("digits_ten")
    thirds = [load_task(task.with_subset(3, part)) for part in range(3)]
    learned = [inputs_of(t.train) | inputs_of(t.validation) for t in thirds]
    assert not learned[0] & learned[1]
    assert not learned[0] & learned[2]
    assert not learned[1] & learned[2]
    test = inputs_of(opened(thirds[0]))
    assert not test & set.union(*learned)
    assert len(test) + sum(map(len, learned)) == 1797
    target = load_task("digits_ten")
    for name in DIGITS[:-1]:
        expert = load_task(f"digits_{name}")
        assert not inputs_of(expert.train) & (inputs_of(target.train) | inputs_of(target.validation))


# --- examples and the seal


def test_examples_must_match():
    with pytest.raises(DataError, match="2 inputs have 1 labels"):
        Examples(["a", "b"], np.array([0]))


def test_example_digest_separates_texts():
    zeros = np.zeros(2, np.int64)
    assert Examples(["ab", "c"], zeros).digest() != Examples(["a", "bc"], zeros).digest()
    assert Examples(["ab", "c"], zeros).digest() == Examples(["ab", "c"], zeros.copy()).digest()
    flat, square = np.zeros((2, 4), np.float32), np.zeros((2, 2, 2), np.float32)
    assert Examples(flat, zeros).digest() != Examples(square, zeros).digest()


def test_content_keys_of_numbers_ignore_noise_and_the_sign_of_zero():
    arrays = np.array([[0.0, 1.0], [-0.0, 1.0 + 1e-8], [0.0, 1.1]], np.float32)
    keys = content_keys(Examples(arrays, np.zeros(3, np.int64)))
    assert keys[0] == keys[1] != keys[2]
    assert len(keys[0]) == len(hashlib.sha256().hexdigest())


def test_the_test_split_opens_once(write_task):
    data = load_task(write_task(csv_of(60)))
    n = data.n_test
    data.test.open("score")
    assert data.test.opened_by == "score"
    assert data.n_test == n
    with pytest.raises(DataError, match="already opened by 'score', now 'tune'"):
        data.test.open("tune")
