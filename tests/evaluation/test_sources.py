"""Each kind of source, with data made here: nothing is fetched."""

import pytest

from taskloom import registry
from taskloom.errors import DataError, IntegrityError, PlanError, SourceUnreachable
from taskloom.evaluation.rows import SourceContext

TABLE = b"text,label\nhello,a\nbye,b\n"
ROWS = [{"text": "hello", "label": "a"}, {"text": "bye", "label": "b"}]


def read(kind, root, /, **options):
    entry = registry.get("source", kind)
    return entry.function(SourceContext(root, "toy"), **entry.validate(options))


def in_split(rows, split):
    return [{**row, "split": split} for row in rows]


def test_the_kinds_that_are_registered():
    texts, images = (
        ["file", "hub", "package", "sklearn"],
        ["emoji", "glyphs", "idx", "pictures", "pixels"],
    )
    assert [e.name for e in registry.entries("source")] == sorted(texts + images)
    assert all(e.summary.endswith(".") for e in registry.entries("source"))


# --- file


def test_one_file(tmp_path):
    (tmp_path / "d.csv").write_bytes(TABLE)
    assert read("file", tmp_path, path="d.csv") == ROWS
    assert read("file", tmp_path, path=str(tmp_path / "d.csv")) == ROWS


def test_a_file_for_each_split(tmp_path):
    (tmp_path / "a.csv").write_bytes(TABLE)
    (tmp_path / "b.jsonl").write_text('{"text": "x", "label": "a"}\n')
    rows = read("file", tmp_path, path={"train": "a.csv", "test": "b.jsonl"})
    assert rows == in_split(ROWS, "train") + in_split([{"text": "x", "label": "a"}], "test")


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"toy.*none.csv cannot be read \(No such file"):
        read("file", tmp_path, path="none.csv")


def test_a_directory_is_no_file(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read("file", tmp_path, path=".", format="csv")


# --- sklearn


@pytest.mark.parametrize(
    ("dataset", "column", "shape", "n"),
    [
        ("digits", "image", (8, 8), 1797),
        ("wine", "vector", (13,), 178),
        ("iris", "vector", (4,), 150),
        ("breast_cancer", "vector", (30,), 569),
    ],
)
def test_built_ins(tmp_path, dataset, column, shape, n):
    rows = read("sklearn", tmp_path, dataset=dataset)
    assert len(rows) == n
    assert rows[0][column].shape == shape
    assert rows[0][column].dtype == "float32"
    assert all(isinstance(row["label"], str) for row in rows)


def test_digits_are_between_zero_and_one(tmp_path):
    images = [row["image"] for row in read("sklearn", tmp_path, dataset="digits")]
    assert min(i.min() for i in images) == 0
    assert max(i.max() for i in images) == 1


# --- package


def test_a_member_of_a_package(tmp_path, cached_package):
    ref, _ = cached_package({"toypack/d.csv": TABLE})
    assert read("package", tmp_path, package=ref, member="toypack/d.csv") == ROWS


def test_a_member_for_each_split(tmp_path, cached_package):
    ref, _ = cached_package({"a.csv": TABLE, "b.csv": TABLE})
    rows = read("package", tmp_path, package=ref, member={"train": "a.csv", "test": "b.csv"})
    assert rows == in_split(ROWS, "train") + in_split(ROWS, "test")


def test_a_folder_of_documents(tmp_path, cached_package):
    members = {
        "p/data/b/2.txt": b"two",
        "p/data/a/1.txt": b"one",
        "p/data/x.py": b"no",
        "q/3.txt": b"no",
    }
    ref, _ = cached_package(members)
    rows = read("package", tmp_path, package=ref, folder="p/data", files="*/*.txt")
    assert [(row["folder"], row["text"]) for row in rows] == [("a", "one"), ("b", "two")]


def test_no_document_matches(tmp_path, cached_package):
    ref, _ = cached_package({"p/data/x.py": b"no"})
    with pytest.raises(DataError, match=r"no file that matches '\*.txt'"):
        read("package", tmp_path, package=ref, folder="p/data", files="*.txt")


def test_a_missing_member(tmp_path, cached_package):
    ref, _ = cached_package({"p/d.csv": TABLE})
    with pytest.raises(DataError, match=r"e.csv"):
        read("package", tmp_path, package=ref, member="p/e.csv")


@pytest.mark.parametrize("more", [{}, {"member": "a", "folder": "b"}])
def test_member_or_folder(tmp_path, cached_package, more):
    ref, _ = cached_package({"p/d.csv": TABLE})
    with pytest.raises(PlanError, match="either 'member' or 'folder'"):
        read("package", tmp_path, package=ref, **more)


def test_a_changed_package_is_refused(tmp_path, cached_package):
    ref, archive = cached_package({"p/d.csv": TABLE})
    archive.write_bytes(archive.read_bytes() + b"!")
    with pytest.raises(IntegrityError, match="toypack"):
        read("package", tmp_path, package=ref, member="p/d.csv")


def test_an_unreachable_registry_matters_only_for_what_is_not_cached(
    tmp_path, cached_package, monkeypatch
):
    def nobody(ref, folder, progress):
        raise SourceUnreachable(f"{ref} cannot be fetched")

    monkeypatch.setattr("taskloom.store.packages.download", nobody)
    ref, _ = cached_package({"p/d.csv": TABLE})
    assert read("package", tmp_path, package=ref, member="p/d.csv") == ROWS
    with pytest.raises(SourceUnreachable, match="other"):
        read("package", tmp_path, package={**ref, "name": "other", "sha256": "0" * 64}, member="x")


# --- hub


@pytest.fixture
def offline(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
def test_a_local_directory_through_datasets(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.csv").write_bytes(TABLE)
    (folder / "test.csv").write_bytes(b"text,label\nx,a\n")
    rows = read("hub", tmp_path, path="set")
    assert rows == in_split(ROWS, "train") + in_split([{"text": "x", "label": "a"}], "test")
    assert read("hub", tmp_path, path="set", split="test") == rows[2:]


@pytest.mark.usefixtures("offline")
def test_class_labels_become_names(tmp_path):
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["ham", "spam"])}
    )
    made = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    made.to_parquet(tmp_path / "d.parquet")
    rows = read("hub", tmp_path, path="parquet", data_files={"train": "d.parquet"})
    assert [row["label"] for row in rows] == ["spam", "ham", None]


@pytest.mark.usefixtures("offline")
def test_an_unreachable_hub(tmp_path):
    with pytest.raises(SourceUnreachable, match="'nobody/nothing'") as caught:
        read("hub", tmp_path, path="nobody/nothing")
    assert caught.value.exit_code == 5


@pytest.mark.usefixtures("offline")
def test_an_unknown_split(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.csv").write_bytes(TABLE)
    with pytest.raises(DataError, match=r"no split 'dev'. Splits: train"):
        read("hub", tmp_path, path="set", split="dev")


@pytest.mark.usefixtures("offline")
def test_a_broken_file_through_datasets(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match="'set' cannot be read"):
        read("hub", tmp_path, path="set")


def test_an_http_error_below_counts_as_unreachable(tmp_path, monkeypatch):
    import datasets

    timeout = type("ConnectTimeout", (Exception,), {"__module__": "httpx._exceptions"})

    def fail(*args, **kwargs):
        try:
            raise timeout("slow")
        except timeout as error:
            raise RuntimeError("could not load") from error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(SourceUnreachable, match="hub cannot be reached"):
        read("hub", tmp_path, path="some/set")
