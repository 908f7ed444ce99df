"""formats: each kind of dirt costs its own row, with file, position and reason; a damaged file says so."""

import csv
import gzip
import io
import itertools
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from raystill.errors import DataError
from raystill.formats import Found, Rejected, read_csv, read_file, read_json, read_jsonl

CAP = 1 << 20
GOOD = b'{"text": "good"}\n'


def jsonl(data: bytes, cap: int = CAP) -> list[Found | Rejected]:
    return list(read_jsonl("f", io.BytesIO(data), cap))


def table(data: bytes, cap: int = CAP) -> list[Found | Rejected]:
    return list(read_csv("f", io.BytesIO(data), cap))


def kept(rows: list[Found | Rejected]) -> list[dict[str, Any]]:
    return [row.values for row in rows if isinstance(row, Found)]


def rejects(rows: list[Found | Rejected]) -> list[tuple[str, str]]:
    return [(row.position, row.reason) for row in rows if isinstance(row, Rejected)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": }\n', "not JSON"),
        (b'{"text": "a"} {"text": "b"}\n', "not JSON"),
        (b'{"text": "\xff\xfe"}\n', "not UTF-8"),
        (b'{"text": "a\0b"}\n', "NUL byte"),
        (b'{"text": "a", "text": "b"}\n', "duplicate key"),
        (b'{"a": {"b": 1, "b": 1}}\n', "duplicate key"),
        (b'{"text": "\\ud800"}\n', "lone surrogate"),
        (b'{"\\uDFFF": 1}\n', "lone surrogate"),
        (b'{"n": NaN}\n', "NaN or Infinity"),
        (b'{"n": -Infinity}\n', "NaN or Infinity"),
        (b'{"n": 1e999}\n', "NaN or Infinity"),
        (b'["a"]\n', "not an object"),
        (b'"a"\n', "not an object"),
        (b"7\n", "not an object"),
        (b'{"a": ' + b"[" * 100_000 + b"\n", "nested too deeply"),
        (b'{"n": ' + b"1" * 5000 + b"}\n", "not JSON"),
        (b'{"text": "' + b"x" * 200_000 + b'"}\n', "longer than max_row_bytes"),
    ],
)
def test_a_bad_line_is_rejected_at_its_byte_and_the_rest_go_on(line: bytes, reason: str) -> None:
    cap = 120_000
    rows = jsonl(GOOD + line + GOOD, cap)
    assert rejects(rows) == [(f"byte {len(GOOD)}", reason)]
    assert kept(rows) == [{"text": "good"}] * 2


def test_what_is_no_dirt_passes() -> None:
    pair = b'{"text": "\\ud83d\\ude00"}\r\n'
    rows = jsonl(b"\xef\xbb\xbf" + GOOD + b"\r\n\n  \n" + pair + b'{"text": "last"}')
    assert [row["text"] for row in kept(rows)] == ["good", "😀", "last"] and not rejects(rows)


def test_a_cut_last_line_is_rejected() -> None:
    assert rejects(jsonl(GOOD + b'{"text": "go')) == [(f"byte {len(GOOD)}", "last line is cut off")]


def test_a_line_of_exactly_the_cap_passes_with_either_line_end() -> None:
    for end in (b"\n", b"\r\n"):
        line = b'{"a": "' + b"x" * 91 + b'"}'
        assert len(line) == 100
        assert len(kept(jsonl(line + end, 100))) == 1
        assert rejects(jsonl(line + end, 99)) == [("byte 0", "longer than max_row_bytes")]


def test_a_huge_line_is_never_held() -> None:
    class Long(io.RawIOBase):
        """A line of 256 MiB, then a good one."""

        pieces = itertools.chain(itertools.repeat(b"x" * (1 << 16), 1 << 12), [b"\n" + GOOD])

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            piece = next(self.pieces, b"")
            buffer[: len(piece)] = piece
            return len(piece)

    tracemalloc.start()
    rows = list(read_jsonl("f", io.BufferedReader(Long(), 1 << 20), 1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rejects(rows) == [("byte 0", "longer than max_row_bytes")] and kept(rows) == [{"text": "good"}]
    assert peak < 16 << 20


@given(
    st.binary(max_size=400)
    | st.lists(st.sampled_from([GOOD, b"\n", b'{"a":', b"\xff", b"\r", b" ", b"1"])).map(b"".join)
)
@settings(max_examples=200, deadline=None)
def test_of_any_bytes_every_line_that_is_not_blank_is_kept_or_rejected(data: bytes) -> None:
    rows = jsonl(data)
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    assert len(rows) == sum(bool(line.strip()) for line in lines)
    for row in rows:
        offset = int(row.position.removeprefix("byte "))
        assert offset == 0 or data[offset - 1 : offset] == b"\n"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=5), st.text() | st.integers() | st.none(), max_size=4)))
def test_what_json_writes_is_read_back(rows: list[dict[str, Any]]) -> None:
    data = "".join(json.dumps(row) + "\n" for row in rows)
    assert kept(jsonl(data.encode())) == rows


def test_csv_with_quotes_line_breaks_and_a_byte_order_mark() -> None:
    rows = table(b'\xef\xbb\xbftext;label\r\n"a;b\nc ""d""";x\r\n\r\n5" pipe;y\r\n')
    assert kept(rows) == [{"text": 'a;b\nc "d"', "label": "x"}, {"text": '5" pipe', "label": "y"}]
    assert not rejects(rows)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_delimiters(delimiter: str) -> None:
    assert kept(table(f"a{delimiter}b\n1{delimiter}2\n".encode())) == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"a\n", "other number of fields than the header"),
        (b"a,b,c\n", "other number of fields than the header"),
        (b"\xff,b\n", "not UTF-8"),
        (b"a\0,b\n", "NUL byte"),
        (b'"a"x,b\n', "quotes do not match"),
        (b"x" * 2000 + b",b\n", "longer than max_row_bytes"),
        (b'"x,y\n', "quotes do not match"),
    ],
)
def test_a_bad_csv_row_is_rejected_at_its_line_and_the_rest_go_on(line: bytes, reason: str) -> None:
    rows = table(b"text,label\n1,2\n" + line + b"3,4\n5,6\n", 1000)
    assert rejects(rows) == [("line 3", reason)]
    assert [row["text"] for row in kept(rows)] == ["1", "3", "5"]


def test_an_open_quote_costs_its_own_line_even_above_the_cap() -> None:
    rows = table(b'text,label\n"open,x\n' + b"1,2\n" * 1000, 500)
    assert rejects(rows) == [("line 2", "longer than max_row_bytes")]
    assert len(kept(rows)) == 1000


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text(), st.text(min_size=1)), max_size=20))
def test_what_csv_writes_is_read_back(pairs: list[tuple[str, str]]) -> None:
    pairs = [p for p in pairs if not set("\0\r") & set("".join(p))]
    out = io.StringIO()
    csv.writer(out).writerows([("a", "b"), *pairs])
    assert [tuple(row.values()) for row in kept(table(out.getvalue().encode()))] == pairs


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_csv_of_any_bytes_never_crashes(data: bytes) -> None:
    table(b"a,b\n" + data, 100)


def test_csv_headers_that_cannot_be_columns() -> None:
    with pytest.raises(DataError, match="twice"):
        table(b"a,a\n1,2\n")
    with pytest.raises(DataError, match="not UTF-8"):
        table(b"a,\xff\n1,2\n")


def test_json_arrays_wrappers_and_lines() -> None:
    def rows(text: str) -> list[Found | Rejected]:
        return list(read_json("f", io.BytesIO(text.encode()), CAP))

    wanted = [{"a": 1}, {"a": 2}]
    assert kept(rows('[{"a": 1},\n {"a": 2}]')) == wanted
    assert kept(rows('{"version": {"x": [1]}, "data": [{"a": 1}, {"a": 2}]}')) == wanted
    assert kept(rows('{"a": 1}\n{"a": 2}\n')) == wanted
    assert kept(rows("[]")) == []
    assert rejects(rows('[{"a": 1}, 7, {"a": 1, "a": 1}, {"a": NaN}, {"a": 2}]')) == [
        ("row 2", "not an object"),
        ("row 3", "duplicate key"),
        ("row 4", "NaN or Infinity"),
    ]
    for broken in ('[{"a": 1}, {"a": ', '[{"a": 1} {"a": 2}]', '[{"a": 1}'):
        with pytest.raises(DataError, match="not a JSON array at byte"):
            rows(broken)


def test_parquet_leaves_out_bytes_and_rejects_bad_text(tmp_path: Path) -> None:
    bad = pa.array([b"ok", b"\xff", b"fine"]).cast(pa.binary()).view(pa.string())
    file = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": bad, "picture": [b"\1"] * 3, "score": [1.0, float("nan"), float("nan")]}), file)
    rows = list(read_file(file, CAP))
    assert kept(rows) == [{"text": "ok", "score": 1.0}, {"text": "fine", "score": None}]
    assert rejects(rows) == [("row 2", "not UTF-8")]


def test_a_parquet_row_above_the_cap_is_rejected(tmp_path: Path) -> None:
    file = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["a", "b" * 2000, "c"]}), file)
    assert rejects(list(read_file(file, 1000))) == [("row 2", "longer than max_row_bytes")]


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped"])
def test_a_damaged_parquet_file_is_named(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"row {i}" for i in range(5000)]}), file, write_page_checksum=True)
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "flipped": data}[damage])
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet"):
        list(read_file(str(file), CAP))


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_packed_files_are_streamed_and_a_cut_one_keeps_the_rows_before(tmp_path: Path, ending: str) -> None:
    lines = b"".join(b'{"n": %d, "x": "%d"}\n' % (i, i * 7919) for i in range(20_000))
    packed = (
        gzip.compress(lines)
        if ending == ".gz"
        else zstandard.compress(lines[:200_000]) + zstandard.compress(lines[200_000:])
    )
    file = tmp_path / f"a.jsonl{ending}"
    file.write_bytes(packed)
    whole = list(read_file(str(file), CAP))
    assert len(kept(whole)) == 20_000 and not rejects(whole)
    file.write_bytes(packed[: len(packed) * 3 // 4])
    cut = list(read_file(str(file), CAP))
    assert 5_000 < len(kept(cut)) < 20_000
    assert [r for _, r in rejects(cut)] == ["the compressed file is damaged or ends here"]
    file.write_bytes(b"no archive at all")
    assert len(rejects(list(read_file(str(file), CAP)))) == 1


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.json", "a.csv"):
        (tmp_path / name).write_bytes(b"")
        assert list(read_file(str(tmp_path / name), CAP)) == []
