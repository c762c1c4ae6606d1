"""Where records end in text, whatever the blocks it comes in."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchmill.sources.formats.csv_format import CsvFormat
from batchmill.sources.formats.json_format import JsonLinesFormat
from batchmill.sources.formats.line_format import PlainTextFormat
from batchmill.sources.formats.records import Layout, RecordScanner

Found = list[tuple[int, int, int]]  # end, rows so far, lines so far


def scan(text: bytes, layout: Layout, block: int) -> Found:
    scanner = RecordScanner(layout)
    found: Found = []
    parts = [scanner.scan(pa.py_buffer(text[at : at + block])) for at in range(0, len(text), block)]
    for records in [*parts, scanner.finish()]:
        rows, lines = found[-1][1:] if found else (0, 0)
        ends = zip(records.ends.tolist(), records.rows.tolist(), records.lines.tolist(), strict=True)
        found += [(end, rows + row, lines + line) for end, row, line in ends]
    return found


def walk_bytes(text: bytes, layout: Layout) -> Found:
    """The same, byte by byte, as a CSV reader goes."""
    found: Found = []
    start = rows = lines = 0
    is_quoted = at_value = False
    closed_at = -2
    at_value = True
    for place, byte in enumerate(text):
        char = bytes([byte])
        lines += char == b"\n"
        if layout.quotes and char == b'"':
            if is_quoted:
                is_quoted, closed_at = False, place
            elif at_value or closed_at == place - 1:
                is_quoted = True
        at_value = char in b",\r\n"
        if char == b"\n" and not is_quoted:
            rows += is_row(text[start : place + 1], layout)
            found.append((place + 1, rows, lines))
            start = place + 1
    if start < len(text):
        found.append((len(text), rows + is_row(text[start:], layout), lines + 1))
    return found


def is_row(record: bytes, layout: Layout) -> bool:
    return not layout.blanks or bool(record.strip(layout.blanks))


texts = st.lists(st.sampled_from(list('"",\n\n\r ax\té')), max_size=40).map(lambda chars: "".join(chars).encode())


@pytest.mark.parametrize(
    "layout", [PlainTextFormat.layout, JsonLinesFormat().layout, CsvFormat([]).layout], ids=["text", "jsonl", "csv"]
)
@settings(max_examples=400, deadline=None)
@given(text=texts, block=st.integers(1, 12))
@example(text=b'a"",b\n"c"', block=3)
@example(text=b'"a""\n"\n', block=4)
@example(text=b'x"\n"y\n"', block=1)
def test_records_end_where_a_reader_finds_them(layout: Layout, text: bytes, block: int) -> None:
    assert scan(text, layout, block) == walk_bytes(text, layout)


@settings(max_examples=200, deadline=None)
@given(values=st.lists(st.lists(st.sampled_from(['5" pipe', '"', '""', "a\nb", "x", ","]), min_size=2, max_size=2)))
def test_csv_values_are_counted_as_they_are_parsed(values: list[list[str]]) -> None:
    quoted = [[value if value[0] == "5" else '"' + value.replace('"', '""') + '"' for value in row] for row in values]
    text = "".join(",".join(row) + "\n" for row in quoted).encode()
    rows = scan(text, CsvFormat([]).layout, 7)[-1][1] if text else 0
    schema = pa.schema([("a", pa.string()), ("b", pa.string())])
    table = CsvFormat(["a", "b"]).parse(pa.py_buffer(text), rows, schema)
    assert [list(row.values()) for row in table.to_pylist()] == values


def test_an_open_quote_is_noticed_at_the_end() -> None:
    scanner = RecordScanner(CsvFormat([]).layout)
    scanner.scan(pa.py_buffer(b'a,"b\nc'))
    assert scanner.is_quoted
