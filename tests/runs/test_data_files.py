import csv
import gzip
import json

import pytest

from taskloom.errors import DataError, PlanError
from taskloom.runs import data_files
from taskloom.runs.data_files import all_texts, check_column, open_table

TEXTS = ["one", "two, with a comma", 'three "quoted"', "four\twith a tab", "fünf", ""]
ROWS = [{"text": text, "label": n % 2, "id": f"r{n}"} for n, text in enumerate(TEXTS)]


def written(folder, kind):
    path = folder / f"pool{kind}"
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    if kind == ".jsonl":
        path.write_text(lines, encoding="utf-8")
    elif kind == ".jsonl.gz":
        path.write_bytes(gzip.compress(lines.encode()))
    elif kind == ".csv":
        with open(path, "w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label", "id"])
            writer.writeheader()
            writer.writerows(ROWS)
    elif kind == ".tsv":
        rows = [[r["text"].replace("\t", " "), str(r["label"]), r["id"]] for r in ROWS]
        path.write_text("\n".join("\t".join(r) for r in [["text", "label", "id"], *rows]) + "\n")
    elif kind == ".parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind == ".txt":
        path.write_text("\n".join(TEXTS), encoding="utf-8")
    else:
        pytest.importorskip("datasets").Dataset.from_list(ROWS).save_to_disk(str(path))
    return path


KINDS = [".jsonl", ".jsonl.gz", ".csv", ".tsv", ".parquet", ".txt", ""]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def test_texts_come_in_chunks_and_parts_share_them(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(data_files, "CHUNK", 2)
    table = open_table(written(tmp_path, kind))
    # a text file has no line for the empty text at its end
    expected = [t.replace("\t", " ") if kind == ".tsv" else t for t in TEXTS][
        : -1 if kind == ".txt" else None
    ]
    assert len(table) == len(expected)
    assert all_texts(table, "text") == expected
    chunks = list(table.chunks("text"))
    assert [start for start, _ in chunks] == [0, 2, 4]
    parts = [chunk for part in (1, 0) for chunk in table.chunks("text", part, 2)]
    assert sorted(parts) == chunks
    assert "text" in table.columns


@pytest.mark.parametrize("score", [None, "score"])
def test_a_subset_has_the_format_of_the_pool(tmp_path, kind, score):
    table = open_table(written(tmp_path, kind))
    output = tmp_path / f"out{kind}"
    chosen = {4: 0.25, 1: 1e-17}
    if kind == ".txt" and score:
        with pytest.raises(PlanError, match="no column for scores"):
            table.write(chosen, score, output)
        return
    table.write(chosen, score, output)
    again = open_table(output)
    assert all_texts(again, "text") == ["two, with a comma", "fünf"]
    assert list(again.columns) == [*table.columns, *([score] if score else [])]
    if kind == ".jsonl":
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        more = [{"score": 1e-17}, {"score": 0.25}] if score else [{}, {}]
        assert rows == [{**ROWS[1], **more[0]}, {**ROWS[4], **more[1]}]
    if kind == ".csv" and score:
        with open(output, newline="") as file:
            assert [float(row["score"]) for row in csv.DictReader(file)] == [1e-17, 0.25]
    if kind == ".parquet":
        rows = pytest.importorskip("pyarrow.parquet").read_table(output).to_pylist()
        assert [row["id"] for row in rows] == ["r1", "r4"]


def test_without_scores_lines_are_copied_as_they_are(tmp_path):
    path = tmp_path / "pool.jsonl"
    path.write_bytes(b'{"text":   "a", "n": 1.0}\r\n\n{"text": "b\\u00e9"}')
    open_table(path).write({0: 1.0, 1: 1.0}, None, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == b'{"text":   "a", "n": 1.0}\n{"text": "b\\u00e9"}\n'


def test_a_column_of_scores_must_be_new(tmp_path, kind):
    if kind != ".txt":
        with pytest.raises(PlanError, match="has a column 'label' already"):
            open_table(written(tmp_path, kind)).write({0: 1.0}, "label", tmp_path / f"out{kind}")


def test_a_missing_column_names_those_there_are(tmp_path):
    with pytest.raises(
        DataError, match=r"no column 'txt': did you mean 'text'\? Columns: text, label, id"
    ):
        check_column(open_table(written(tmp_path, ".jsonl")), "txt")


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": 3}\n', DataError, "row 1: column 'text' holds int"),
        ("a.jsonl", b'{"text": "x"}\n{"body": "y"}\n', DataError, "row 1 has no 'text': it has body"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', DataError, "row 1 is a JSON list"),
        ("a.jsonl", b'{"text": "x"}\nnot\n', DataError, "row 1 is not JSON"),
        ("a.jsonl", b'{"text": "\xff"}\n', DataError, "cannot be read as UTF-8"),
        ("a.jsonl.gz", b"plain", DataError, "cannot be read"),
        ("a.csv", b"text,b\n1,2\n3\n", DataError, "line 3: 1 fields, expected 2"),
        ("a.csv", b"text,text\n1,2\n", DataError, "names a column twice"),
        ("a.parquet", b"no", DataError, "not a readable parquet"),
        ("a.doc", b"", PlanError, "format cannot be told"),
    ],
)
def test_bad_files_are_refused(tmp_path, name, content, error, words):
    (tmp_path / name).write_bytes(content)

    def read():
        table = open_table(tmp_path / name)
        check_column(table, "text")
        all_texts(table, "text")

    with pytest.raises(error, match=words):
        read()


def test_bad_places_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file or directory"):
        open_table(tmp_path / "nothing.jsonl")
    pytest.importorskip("datasets")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="no data set that save_to_disk wrote"):
        open_table(tmp_path / "folder")


def test_what_is_in_memory_is_written_as_jsonl(tmp_path):
    for rows in (TEXTS, ROWS):
        table = open_table(rows)
        table.write({1: 0.5}, "score", tmp_path / "out.jsonl")
        row = json.loads((tmp_path / "out.jsonl").read_text())
        assert (row["text"], row["score"]) == (TEXTS[1], 0.5)
    with pytest.raises(DataError, match="row 0 is a int"):
        open_table([1])
    with pytest.raises(DataError, match="holds NoneType"):
        all_texts(open_table([{"text": "a"}, {"other": "b"}]), "text")
