import bz2
import gzip
import io
import json

import pytest

from taskloom.errors import DataError, PlanError
from taskloom.evaluation.formats import documents, read_rows

ROWS = [{"text": 'a, "b"', "label": "x"}, {"text": "two\nlines", "label": "y"}]


def test_csv_quotes_commas_and_lines():
    data = b'text,label\r\n"a, ""b""",x\r\n"two\nlines",y\r\n'
    assert read_rows(data, name="f.csv") == ROWS


def test_csv_ignores_a_byte_order_mark():
    assert read_rows("\ufefftext,label\na,b".encode(), name="f.csv") == [{"text": "a", "label": "b"}]


def test_tsv_does_not_quote():
    assert read_rows(b'text\tlabel\n"a\tx\n', name="f.tsv") == [{"text": '"a', "label": "x"}]


def test_jsonl():
    data = "\n".join(json.dumps(row) for row in ROWS) + "\n\n"
    assert read_rows(data.encode(), name="f.jsonl") == ROWS


def test_parquet():
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    assert read_rows(sink.getvalue(), name="f.parquet") == ROWS


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_compressed_by_name(suffix, pack):
    data = pack(b"text,label\na,b\n")
    assert read_rows(data, name=f"f.csv{suffix}") == [{"text": "a", "label": "b"}]


@pytest.mark.parametrize("suffix", [".gz", ".bz2"])
def test_not_compressed_in_spite_of_its_name(suffix):
    with pytest.raises(DataError, match=f"f.csv{suffix} is not a readable"):
        read_rows(b"text,label", name=f"f.csv{suffix}")


def test_the_format_can_be_said():
    assert read_rows(b"a\tb\n1\t2\n", name="f.txt", format="tsv") == [{"a": "1", "b": "2"}]


def test_a_format_that_cannot_be_told():
    with pytest.raises(PlanError, match=r"f.xyz.*cannot be told.*csv"):
        read_rows(b"", name="f.xyz")


def test_text_that_is_not_utf8_names_file_byte_and_way_out():
    with pytest.raises(DataError) as caught:
        read_rows(b"text\ncaf\xe9\n", name="menu.csv")
    message = str(caught.value)
    assert "menu.csv is not utf-8 text: byte 0xe9 at offset 8" in message
    assert "encoding: latin-1" in message
    assert caught.value.exit_code == 4


def test_its_encoding_can_be_said_or_replaced():
    data = b"text\ncaf\xe9\n"
    assert read_rows(data, name="f.csv", encoding="latin-1") == [{"text": "café"}]
    assert read_rows(data, name="f.csv", undecodable="replace") == [{"text": "caf\ufffd"}]


def test_unknown_encoding():
    with pytest.raises(PlanError, match="unknown encoding 'utf-9'"):
        read_rows(b"a", name="f.csv", encoding="utf-9")


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("f.csv", b"", "f.csv is empty"),
        ("f.csv", b"a,b\n1\n", "line 2 has 1 fields, expected 2"),
        ("f.csv", b"a,b\n1,2,3\n", "line 2 has 3 fields, expected 2"),
        ("f.csv", b"a,a\n1,2\n", "names a column twice"),
        ("f.jsonl", b'{"a": 1}\n{"a": \n', "line 2 is not JSON"),
        ("f.jsonl", b"[1]\n", "line 1 is a JSON list, expected an object"),
        ("f.parquet", b"text,label\na,b\n", "f.parquet is not a readable parquet file"),
    ],
)
def test_wrong_format(name, data, match):
    with pytest.raises(DataError, match=match):
        read_rows(data, name=name)


def test_a_long_field_is_read():
    long = "x" * 200_000
    assert read_rows(f"a\n{long}\n".encode(), name="f.csv") == [{"a": long}]


def pattern(data, expression, **more):
    return read_rows(data, name="f.txt", format="pattern", pattern=expression, **more)


def test_pattern_lines():
    found = pattern(b"A:x one\r\nB:y two\r\n", r"^(?P<k>\w):\w (?P<t>.+)$")
    assert found == [{"k": "A", "t": "one"}, {"k": "B", "t": "two"}]


def test_pattern_refuses_what_is_left_over():
    with pytest.raises(DataError, match=r"f.txt line 2 holds 'rubbish'"):
        pattern(b"A one\nrubbish\nB two\n", r"^(?P<k>[A-Z]) (?P<t>.+)$")


def test_pattern_refuses_a_left_over_end():
    with pytest.raises(DataError, match="line 3 holds 'end'"):
        pattern(b"A one\n\nend\n", r"^(?P<k>[A-Z]) (?P<t>.+)$")


def test_pattern_drops_what_is_left_over_when_told():
    found = pattern(b"head\nA one\n", r"^(?P<k>[A-Z]) (?P<t>.+)$", unmatched="drop")
    assert found == [{"k": "A", "t": "one"}]


@pytest.mark.parametrize("expression", [None, "(", "no group"])
def test_pattern_needs_a_pattern_with_names(expression):
    with pytest.raises(PlanError, match=r"f.txt"):
        pattern(b"x", expression)


def test_documents_know_their_folder():
    files = iter([("d/sport/1.txt", b"goal"), ("d/arts/2.txt", b"play")])
    rows = documents(files, encoding="utf-8", undecodable="refuse")
    assert [(row["folder"], row["file"], row["text"]) for row in rows] == [
        ("sport", "1.txt", "goal"),
        ("arts", "2.txt", "play"),
    ]


def test_a_document_that_is_not_utf8():
    with pytest.raises(DataError, match=r"d/1.txt is not utf-8"):
        documents(iter([("d/1.txt", b"\xff")]), encoding="utf-8", undecodable="refuse")
