"""Rows out of one data file: JSON Lines, JSON, CSV and Parquet, the text ones also packed with gzip or zstd.

A bad row is data: it comes out as Rejected, with file, position and reason, and the rows after it go on. A damaged file
raises DataError. What a row means is not decided here. Positions are bytes of the unpacked file (JSON Lines), lines
(CSV) or rows, counted from 1 (JSON, Parquet).
"""

import contextlib
import csv
import gzip
import io
import json
import math
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zstandard

from raystill import storage
from raystill.errors import DataError

FORMATS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet",
}  # fmt: skip
COMPRESSED = (".gz", ".zst")
BOM = b"\xef\xbb\xbf"
SKIP_BYTES = 1 << 16
"""How much of an over-long line is held while it is skipped."""
ZSTD_BYTES = 512
"""Packed bytes unpacked at once: four of them can stand for 128 KiB, so at most 16 MiB come out."""
BATCH_ROWS = 1024
"""Parquet rows turned into Python at once: a few megabytes of usual text."""
_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError)


@dataclass(frozen=True, slots=True)
class Found:
    """One row of a file, as a mapping from column to JSON value."""

    file: str
    position: str
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rejected:
    """One row that cannot be used, and why; never its content."""

    file: str
    position: str
    reason: str


def suffix(path: str) -> str:
    """The ending that says the format, without that of the compression."""
    for ending in COMPRESSED:
        path = path.removesuffix(ending)
    return os.path.splitext(path)[1].lower()  # noqa: PTH122 - a URL is no Path


def format_of(file: str) -> str:
    """The format that a file's ending says. Raises DataError for an unknown one."""
    kind = FORMATS.get(suffix(file))
    if kind is None:
        raise DataError(
            f"{file}: the ending does not say which format it is; rename it to one of "
            f"{', '.join(FORMATS)} (text also with {' or '.join(COMPRESSED)})"
        )
    if kind == "parquet" and file.endswith(COMPRESSED):
        raise DataError(
            f"{file}: Parquet compresses its own pages and cannot be read inside an archive; unpack it first"
        )
    return kind


def read_file(file: str, max_row_bytes: int) -> Iterator[Found | Rejected]:
    """All rows of one file in order. Raises DataError when the file is damaged as a whole."""
    kind = format_of(file)
    if kind == "parquet":
        yield from _read_parquet(file, max_row_bytes)
        return
    reader = {"jsonl": read_jsonl, "csv": read_csv, "json": read_json}[kind]
    with storage.open_read(file) as raw, _unpacked(file, raw) as stream:
        yield from reader(file, stream, max_row_bytes)


@contextlib.contextmanager
def _unpacked(file: str, raw: IO[bytes]) -> Iterator[IO[bytes]]:
    if file.endswith(".gz"):
        with gzip.GzipFile(fileobj=raw) as stream:
            yield stream  # type: ignore[misc] # a GzipFile reads like any binary stream
    elif file.endswith(".zst"):
        yield io.BufferedReader(_Zstd(raw), SKIP_BYTES)
    else:
        yield io.BufferedReader(raw, SKIP_BYTES)  # type: ignore[type-var] # botocore's body is a raw stream


class _Zstd(io.RawIOBase):
    """Unpacks zstd frames; unlike zstandard's own reader it raises EOFError when the last frame is cut off."""

    def __init__(self, raw: IO[bytes]) -> None:
        self.raw = raw
        self.frame: Any = None
        self.packed = b""
        self.ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            self.packed = self.packed or self.raw.read(ZSTD_BYTES)
            if not self.packed:
                if self.frame is not None:
                    raise EOFError("the last zstd frame is cut off")
                return 0
            self.frame = self.frame or zstandard.ZstdDecompressor().decompressobj()
            self.ready = memoryview(self.frame.decompress(self.packed))
            self.packed = self.frame.unused_data if self.frame.eof else b""
            self.frame = None if self.frame.eof else self.frame
        taken = self.ready[: len(buffer)]
        self.ready = self.ready[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)


@dataclass(frozen=True, slots=True)
class _Line:
    """One physical line without its byte order mark; bad says why it has no data."""

    offset: int
    data: bytes
    bad: str | None = None


def _lines(stream: IO[bytes], max_bytes: int) -> Iterator[_Line]:
    """Lines with their byte offsets, never holding more than max_bytes of one. The last may lack its line end."""
    offset = 0
    try:
        while data := stream.readline(max_bytes + len(b"\r\n")):
            start, offset = offset, offset + len(data)
            if len(data.rstrip(b"\r\n")) > max_bytes:
                while not data.endswith(b"\n") and (data := stream.readline(SKIP_BYTES)):
                    offset += len(data)
                yield _Line(start, b"", "longer than max_row_bytes")
            else:
                yield _Line(start, data.removeprefix(BOM) if start == 0 else data)
    except _BROKEN:
        yield _Line(offset, b"", "the compressed file is damaged or ends here")


class _Bad(ValueError):
    """Why a JSON value is refused."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise _Bad("duplicate key")
    return values


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Bad("NaN or Infinity")
    return value


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _parse(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value at a place in a text, and where it ends. Raises ValueError; _Bad when the syntax is right."""
    try:
        value, end = _STRICT.raw_decode(text, start)
    except RecursionError:
        raise _Bad("nested too deeply") from None
    if _SURROGATE.search(text, start, end):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise _Bad("lone surrogate") from None
    if not isinstance(value, dict):
        raise _Bad("not an object")
    return value, end


def _parse_line(data: bytes) -> dict[str, Any]:
    """The object on one line. Raises ValueError: UnicodeDecodeError, _Bad or one about the syntax."""
    if b"\0" in data:
        raise _Bad("NUL byte")
    text = data.decode().strip(" \t\r\n\v\f")
    values: dict[str, Any]
    values, end = _parse(text)
    if end != len(text):
        raise _Bad("not JSON")
    return values


def read_jsonl(file: str, stream: IO[bytes], max_row_bytes: int) -> Iterator[Found | Rejected]:
    """Rows of JSON Lines: strict JSON and UTF-8, one object per line; blank lines, CRLF and a byte order mark pass."""
    for line in _lines(stream, max_row_bytes):
        if line.bad is None and not line.data.strip():
            continue
        reason = line.bad
        values: dict[str, Any] = {}
        if reason is None:
            try:
                values = _parse_line(line.data)
            except _Bad as e:
                reason = str(e)
            except UnicodeDecodeError:
                reason = "not UTF-8"
            except ValueError:
                reason = "not JSON" if line.data.endswith(b"\n") else "last line is cut off"
        position = f"byte {line.offset}"
        yield Found(file, position, values) if reason is None else Rejected(file, position, reason)


def read_json(file: str, stream: IO[bytes], max_row_bytes: int) -> Iterator[Found | Rejected]:
    """Rows of a JSON array, or of the array under "data". One object per line is read as JSON Lines.

    The file is held in memory. Raises DataError where the array itself is broken: nothing after that place is sure.
    """
    try:
        data = stream.read()
        text = data.removeprefix(BOM).decode()
    except _BROKEN as e:
        raise DataError(f"{file} is damaged or cut off inside its compression; make it anew") from e
    except UnicodeDecodeError as e:
        raise DataError(f"{file} is not UTF-8 at byte {e.start}; convert it: iconv -t UTF-8") from e
    at = _array_start(text)
    if at is None:
        yield from read_jsonl(file, io.BytesIO(data), max_row_bytes)
        return
    row = 0
    at = _skip(text, at)
    while not text.startswith("]", at):
        row += 1
        values: Any = None
        reason: str | None = None
        try:
            values, end = _parse(text, at)
        except _Bad as e:
            reason = str(e)
            end = _end(file, text, at)
        except ValueError as e:
            raise _broken(file, text, at) from e
        if len(text[at:end].encode(errors="replace")) > max_row_bytes:
            reason = "longer than max_row_bytes"
        yield Found(file, f"row {row}", values) if reason is None else Rejected(file, f"row {row}", reason)
        at = _skip(text, end)
        if text.startswith(",", at):
            at = _skip(text, at + 1)
        elif not text.startswith("]", at):
            raise _broken(file, text, at)


def _broken(file: str, text: str, at: int) -> DataError:
    return DataError(
        f"{file} is not a JSON array at byte {len(text[:at].encode())}, so the rows after it cannot be told apart; "
        "mend it, or write one object per line into a .jsonl file, where a bad row costs only itself"
    )


def _skip(text: str, at: int) -> int:
    """The next place that is not white space."""
    while text[at : at + 1] in (" ", "\t", "\r", "\n"):
        at += 1
    return at


def _end(file: str, text: str, at: int) -> int:
    """Where a value that is refused for its content ends."""
    try:
        return json.JSONDecoder().raw_decode(text, at)[1]
    except (ValueError, RecursionError) as e:
        raise _broken(file, text, at) from e


def _array_start(text: str) -> int | None:
    """Just inside the array of rows: the text's own, or the one under "data"; None when there is neither."""
    at = _skip(text, 0)
    if text.startswith("[", at):
        return at + 1
    decoder = json.JSONDecoder()
    try:
        while text[at : at + 1] in ("{", ","):
            key, at = decoder.raw_decode(text, _skip(text, at + 1))
            at = _skip(text, at)
            if not text.startswith(":", at):
                return None
            at = _skip(text, at + 1)
            if key == "data" and text.startswith("[", at):
                return at + 1
            at = _skip(text, decoder.raw_decode(text, at)[1])
    except (ValueError, RecursionError):
        pass
    return None


class _Records:
    """Physical lines as csv.reader wants them, remembering those of the record it is at."""

    def __init__(self, lines: Iterator[_Line], max_bytes: int) -> None:
        self.lines = lines
        self.max_bytes = max_bytes
        self.again: list[_Line] = []
        self.record: list[_Line] = []
        self.number = 0
        self.size = 0

    def __iter__(self) -> "_Records":
        return self

    def __next__(self) -> str:
        line = self.again.pop() if self.again else next(self.lines)
        self.record.append(line)
        self.size += len(line.data)
        if line.bad or self.size > self.max_bytes + len(b"\r\n"):
            raise _Bad(line.bad or "longer than max_row_bytes")
        return line.data.decode(errors="surrogateescape")

    def begin(self) -> str:
        """Forget the record that was read; the position of the next one."""
        self.number += len(self.record)
        self.record, self.size = [], 0
        return f"line {self.number + 1}"

    def back(self) -> None:
        """Read again from the second line of a record that is no record, so an open quote costs only its own line."""
        self.again += reversed(self.record[1:])
        self.record = self.record[:1]


def read_csv(file: str, stream: IO[bytes], max_row_bytes: int) -> Iterator[Found | Rejected]:
    """Rows of CSV under the names in its first line; the delimiter is whichever of , ; tab | parts that line most.

    Every value is text. A row with more or fewer fields than the header is rejected.
    """
    records = _Records(_lines(stream, max_row_bytes), max_row_bytes)
    # A process-wide limit of csv, and by default 128 KiB; it may only grow here, as ours is checked per row.
    csv.field_size_limit(max(csv.field_size_limit(), max_row_bytes + len(b"\r\n")))
    header, delimiter = _header(file, records)
    position = records.begin()
    reader = csv.reader(records, delimiter=delimiter, strict=True)
    while True:
        reason = None
        fields: list[str] = []
        try:
            fields = next(reader)
        except StopIteration:
            return
        except _Bad as e:
            reason = str(e)
            records.back()
            reader = csv.reader(records, delimiter=delimiter, strict=True)
        except csv.Error:
            reason = "quotes do not match"
            records.back()
        if reason is None and fields:
            reason = _field_fault(fields, len(header))
        if reason is not None:
            yield Rejected(file, position, reason)
        elif fields:
            yield Found(file, position, dict(zip(header, fields, strict=True)))
        position = records.begin()


def _field_fault(fields: list[str], width: int) -> str | None:
    text = "".join(fields)
    if "\0" in text:
        return "NUL byte"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "not UTF-8"
    return None if len(fields) == width else "other number of fields than the header"


def _header(file: str, records: _Records) -> tuple[list[str], str]:
    try:
        line = next((text for text in records if text.strip()), "")
        found = {d: next(csv.reader([line], delimiter=d, strict=True), []) for d in ",;\t|"}
    except (_Bad, csv.Error) as e:
        raise DataError(f"{file}: its first line is no header ({e}); the first line must name the columns") from e
    delimiter = max(found, key=lambda d: len(found[d]))
    header = [name.strip() for name in found[delimiter]]
    if fault := _field_fault(header, len(header)):
        raise DataError(f"{file}: its first line, which names the columns, is unusable: {fault}")
    if twice := {name for name in header if header.count(name) > 1}:
        raise DataError(f"{file}: the header names {', '.join(map(repr, sorted(twice)))} twice; rename one of them")
    return header, delimiter


def _read_parquet(file: str, max_row_bytes: int) -> Iterator[Found | Rejected]:
    # Parquet is read from its end, so an object on S3 is fetched whole.
    source: Any = io.BytesIO(storage.read(file)) if storage.is_s3(file) else file
    try:
        with pq.ParquetFile(source, page_checksum_verification=True) as parquet:
            names = [f.name for f in parquet.schema_arrow if is_textual(f.type)]
            first = 1
            for batch in parquet.iter_batches(BATCH_ROWS, columns=names):
                yield from arrow_rows(file, pa.Table.from_batches([batch]), first, max_row_bytes)
                first += batch.num_rows
    except (pa.ArrowException, OSError) as e:
        raise DataError(
            f"{file} cannot be read as Parquet: it is empty, cut off or damaged. Copy it again from where it came "
            f"from, or leave it out"
        ) from e


def is_textual(kind: pa.DataType) -> bool:
    """Whether JSON can hold such values; pictures and other bytes are no prompts, and such columns are not read."""
    if pa.types.is_nested(kind):
        return all(is_textual(kind.field(i).type) for i in range(kind.num_fields))
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return not (binary or isinstance(kind, pa.BaseExtensionType))


def arrow_rows(file: str, table: pa.Table, first: int, max_row_bytes: int) -> Iterator[Found | Rejected]:
    """Rows of a table whose first is row number `first` of its file. NaN is how pandas writes a missing number."""
    for index, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            column = table.column(index)
            table = table.set_column(index, field, pc.if_else(pc.is_nan(column), pa.scalar(None, field.type), column))
    try:
        rows: list[dict[str, Any] | None] = table.to_pylist()
    except UnicodeDecodeError:
        rows = [_row(table, i) for i in range(table.num_rows)]
    big = table.nbytes > max_row_bytes
    for number, values in enumerate(rows, first):
        reason = "not UTF-8" if values is None else None
        if values is not None and big and len(json.dumps(values, ensure_ascii=False, default=str)) > max_row_bytes:
            reason = "longer than max_row_bytes"
        if values is None or reason is not None:
            yield Rejected(file, f"row {number}", reason or "")
        else:
            yield Found(file, f"row {number}", values)


def _row(table: pa.Table, index: int) -> dict[str, Any] | None:
    try:
        values: dict[str, Any] = table.slice(index, 1).to_pylist()[0]
    except UnicodeDecodeError:
        return None
    return values
