"""`parse`: real files of all kinds, and files that crash, block or swell their parsers."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from batchmill.errors import InvalidParams, InvalidRows, MissingExtra
from batchmill_worker.documents import parser
from support import documents
from support.processes import children_with
from support.text_models import cache_over, definition_of, run
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import batchmill
    from batchmill.operators.contract import Expansion

PAGE = """<html><head><title>Cats</title></head><body><nav><a href="/">Home</a> <a href="/all">All pages</a></nav>
<main><article><h1>Cats</h1><p>{}</p></article></main><footer>Imprint</footer></body></html>"""
CATS = "Cats are small animals, and they sleep for most of the day. " * 5
MODULE = "batchmill_worker.documents"


@pytest.fixture
def others() -> set[Any]:
    """Parsers of the session's service."""
    return set(children_with(MODULE))


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    before = set(children_with(MODULE))
    yield
    until(lambda: set(children_with(MODULE)) <= before, "the end of the parsers")


def parse(files: list[Any], paths: list[str | None] | None = None, type_: Any = None, **params: Any) -> Expansion:
    operator = definition_of("parse").build(params)
    operator.setup("cpu")
    try:
        table = pa.table({"bytes": pa.array(files, type_ or pa.large_binary())})
        if paths is not None:
            table = table.append_column("path", pa.array(paths, pa.string()))
        result: Expansion = operator.infer(table)
    finally:
        operator.teardown()
    return result


def problem(file: Any, path: str = "", **params: Any) -> str:
    """The error of a file that fails, beside which a good one is parsed."""
    result = parse([file, b"good"], [path, "good.txt"], **params)
    assert list(result.counts) == [0, 1]
    assert result.results["text"].to_pylist() == ["good"]
    return result.errors[0].message


def text(file: bytes, path: str = "", **params: Any) -> str:
    result = parse([file], [path], **params)
    assert not result.errors
    return str(result.results["text"][0].as_py())


def test_files_of_all_kinds_are_rows_of_text_in_order() -> None:
    files = {
        "a.pdf": documents.pdf(["Page one", "Zweite Seite äöü"]),
        "b.html": PAGE.format(CATS).encode(),
        "c.docx": documents.docx(documents.paragraph("One.") + documents.paragraph("Two.")),
        "d.md": b"# Title\r\n\r\nText.",
        "e.txt": "naïve\n".encode(),
    }
    result = parse(list(files.values()), list(files))
    assert not result.errors
    assert list(result.counts) == [2, 1, 1, 1, 1]
    assert result.results.schema == pa.schema({"page": pa.int32(), "kind": pa.string(), "text": pa.string()})
    assert result.results.to_pylist() == [
        {"page": 1, "kind": "pdf", "text": "Page one"},
        {"page": 2, "kind": "pdf", "text": "Zweite Seite äöü"},
        {"page": None, "kind": "html", "text": f"Cats\n\n{CATS.strip()}"},
        {"page": None, "kind": "docx", "text": "One.\nTwo."},
        {"page": None, "kind": "markdown", "text": "# Title\n\nText."},
        {"page": None, "kind": "text", "text": "naïve\n"},
    ]


def test_the_kind_is_known_without_a_name_and_can_be_given() -> None:
    files = [documents.pdf(["x"]), b"\xef\xbb\xbf <!-- c -->\n<!DOCTYPE html><p>Hi", documents.docx(""), b"# no <html>"]
    assert parse(files).results["kind"].to_pylist() == ["pdf", "html", "docx", "text"]
    assert parse([b"<html><p>Hi"], ["a.html"], type_=pa.binary(), kind="text").results.to_pylist() == [
        {"page": None, "kind": "text", "text": "<html><p>Hi"}
    ]


def test_all_of_a_page_is_there_if_it_is_asked_for() -> None:
    page = PAGE.format(CATS).encode()
    assert "Imprint" not in text(page)
    assert "Imprint" in text(page, main_content=False)


def test_a_word_document_has_its_tables_tabs_and_breaks_but_nothing_twice() -> None:
    cells = "".join(f"<w:tc>{documents.paragraph(cell)}</w:tc>" for cell in "ab")
    body = (
        '<w:p><w:pPr><w:tabs><w:tab w:pos="1"/></w:tabs></w:pPr><w:r><w:t>One</w:t><w:tab/><w:t>two</w:t></w:r></w:p>'
        f"<w:tbl><w:tr>{cells}</w:tr><w:tr>{cells}</w:tr></w:tbl>"
        "<w:p><w:moveFrom><w:r><w:t>moved</w:t></w:r></w:moveFrom><w:del><w:r><w:delText>gone</w:delText></w:r></w:del>"
        "<w:r><w:t>up</w:t><w:br/><w:t>down</w:t></w:r></w:p>"
    )
    assert text(documents.docx(body)) == "One\ttwo\na\tb\na\tb\nup\ndown"


@pytest.mark.parametrize(
    ("file", "params", "expected"),
    [
        ("Übung".encode("utf-16"), {}, "Übung"),
        ("Übung".encode("utf-8-sig"), {}, "Übung"),
        ("Übung … “x”".encode("windows-1252"), {}, "Übung … “x”"),
        ("数据".encode("gb18030"), {"encoding": "gb18030"}, "数据"),
        ('<html><head><meta charset="shift_jis"></head><body><p>日本'.encode("shift_jis"), {}, "日本"),
        ('<?xml version="1.0" encoding="latin-1"?><html><p>Ü …'.encode("windows-1252"), {}, "Ü …"),
        ('<html><meta charset="utf-16"><p>Ü'.encode(), {}, "Ü"),
        ('<html><meta charset="utf-8"><p>Ü'.encode() + b"\xff", {}, "Ü\ufffd"),
        (b"<html><p>\xdc\x81\xff", {}, "Ü\ufffdÿ"),
        ("Ü".encode("utf-32-be"), {"encoding": "utf-32-be"}, "Ü"),
        ('<html><meta charset="zlib"><p>Ü'.encode(), {}, "Ü"),
    ],
)
def test_encodings_are_read_as_marked_declared_or_given(file: bytes, params: dict[str, Any], expected: str) -> None:
    assert text(file, **params) == expected


def test_a_column_of_text_is_parsed_as_it_is() -> None:
    result = parse(["<html><p>Ü", "plain", None], type_=pa.string())
    assert result.results["text"].to_pylist() == ["Ü", "plain"]
    assert result.errors[2].message == "column 'bytes' is null, expected a file"
    assert parse(["x"], type_=pa.string(), kind="markdown").results["kind"].to_pylist() == ["markdown"]


@pytest.mark.parametrize(
    ("file", "path", "params", "message"),
    [
        (b"", "a.pdf", {}, "the file is empty"),
        (b"<html>404", "a.pdf", {}, r"is named \.pdf, but its content is html: it begins with b'<html>404'"),
        (documents.pdf(["x"]), "a.html", {}, r"is named \.html, but its content is pdf"),
        (documents.pdf(["x"])[:300], "a.pdf", {}, "is no PDF, or a damaged one"),
        (documents.pdf([]), "a.pdf", {}, "is no PDF, or a damaged one"),
        (documents.encrypted_pdf(), "a.pdf", {}, "is an encrypted PDF, which only a password opens"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a.docx", {}, "an Office file of the old format, or an encrypted one"),
        (b"\x89PNG\r\n\x1a\n", "", {}, "a PNG image"),
        (b"a\0b", "", {}, "is no text and no known format"),
        (documents.archive({"a.txt": "a"}), "a.docx", {}, "is a ZIP archive, but no Word document"),
        (documents.docx("")[:60], "", {}, "is a damaged ZIP archive"),
        (documents.docx("<w:p>"), "", {}, "is a damaged Word document: mismatched tag"),
        (documents.docx("", prolog='<!DOCTYPE a [<!ENTITY b "c">]>'), "", {}, "its XML declares a document type"),
        ("Ü".encode("latin-1"), "", {"encoding": "utf-8"}, "is not valid in utf-8; the parameter 'encoding'"),
        (b"\x81", "", {}, "is not valid in utf-8 or windows-1252"),
    ],
    ids=lambda value: "file" if isinstance(value, bytes) else None,  # a ZIP archive has the time in it
)
def test_a_file_that_cannot_be_read_fails_with_the_reason(
    file: bytes, path: str, params: dict[str, Any], message: str
) -> None:
    found = problem(file, path, **params)
    assert re.search(message, found), found


@pytest.mark.slow
def test_bombs_fail_within_their_limits_and_files_beside_them_are_parsed() -> None:
    bomb = documents.pdf_bomb(600)
    assert "was ended by SIGABRT (it is damaged, or needs more memory" in problem(bomb, memory_mb=400)
    assert "unpacks to more than 256 MiB of XML" in problem(documents.docx_bomb(257))


def test_a_file_that_blocks_its_parser_fails_when_its_time_is_over() -> None:
    assert "took longer than 2 s (raise timeout_s" in problem(documents.deep_html(300_000), timeout_s=2)


def test_a_parser_that_is_killed_or_frozen_costs_no_more_than_its_file(
    others: set[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parser, "MAX_PROCESSES", 1)  # the one that has answered
    operator = definition_of("parse").build({"timeout_s": 5})
    operator.setup("cpu")
    table = pa.table({"bytes": [b"text"]})
    try:
        assert operator.infer(table).counts == [1]
        for process in set(children_with(MODULE)) - others:
            process.kill()
        assert operator.infer(table).counts == [1]
        for process in set(children_with(MODULE)) - others:
            process.send_signal(signal.SIGSTOP)
        assert "took longer than 5 s" in operator.infer(table).errors[0].message
        assert operator.infer(table).counts == [1]
    finally:
        operator.teardown()


def test_the_parsers_have_no_secrets(monkeypatch: pytest.MonkeyPatch, others: set[Any]) -> None:
    monkeypatch.setenv("BATCHMILL_TOKENS", "hidden")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    operator = definition_of("parse").build({})
    operator.setup("cpu")
    try:
        operator.infer(pa.table({"bytes": [b"text"]}))
        (process, *_) = set(children_with(MODULE)) - others
        assert "hidden" not in process.environ().values()
    finally:
        operator.teardown()


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['pypdfium2'] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    expected = r"'parse' needs the libraries of the extra 'pdf'.*pip install 'batchmill\[pdf\]'"
    with pytest.raises(MissingExtra, match=expected):
        parse([documents.pdf(["x"])])
    assert text(b"<html><p>Hi") == "Hi"
    monkeypatch.setitem(__import__("sys").modules, "pypdfium2", None)
    with pytest.raises(MissingExtra, match=expected):
        definition_of("parse").build({"kind": "pdf"}).setup("cpu")


def test_impossible_parameters_and_columns_are_refused() -> None:
    with pytest.raises(InvalidParams, match="encoding is 'klingon', which Python does not know"):
        parse([b"x"], encoding="klingon")
    with pytest.raises(InvalidParams, match="encoding is 'zlib'"):
        parse([b"x"], encoding="zlib")
    with pytest.raises(InvalidRows, match="'parse' reads the column 'raw', which the rows do not have"):
        parse([b"x"], column="raw")
    with pytest.raises(InvalidRows, match="expects bytes or text in column 'bytes', got int64"):
        parse([1], type_=pa.int64())


def test_pages_keep_the_order_of_the_files_in_the_engine() -> None:
    files = [documents.pdf([f"{number}-{page}" for page in range(number % 4 + 1)]) for number in range(40)]
    table = pa.table({"id": range(40), "bytes": pa.array(files, pa.large_binary())})
    with cache_over() as cache:
        result = run(cache, "parse", table, batch_size=7)
    expected = [(number, f"{number}-{page}") for number in range(40) for page in range(number % 4 + 1)]
    assert list(zip(result.table["id"].to_pylist(), result.table["text"].to_pylist(), strict=True)) == expected


@pytest.mark.slow
def test_a_folder_is_parsed_by_a_job_and_the_bad_files_are_dead_letters(
    client: batchmill.Client, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.pdf").write_bytes(documents.pdf(["one", "two"]))
    (folder / "b.pdf").write_bytes(documents.pdf_bomb(1200))
    (folder / "c.html").write_bytes(PAGE.format(CATS).encode())
    (folder / "d.docx").write_bytes(b"")
    job = client.submit("parse", source={"path": str(folder), "format": "binary"})
    assert job.to_table().column_names == ["source_row", "path", "size", "modified_at", "page", "kind", "text"]
    rows = [(row["path"].rpartition("/")[2], row["source_row"], row["page"], row["text"][:4]) for row in job.results()]
    assert rows == [("a.pdf", 0, 1, "one"), ("a.pdf", 0, 2, "two"), ("c.html", 2, None, "Cats")]
    assert [letter.index for letter in job.dead_letters()] == [1, 3]


def test_equal_files_come_from_the_row_cache_with_all_their_pages(client: batchmill.Client, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.pdf").write_bytes(documents.pdf(["first", "second"]))
    (folder / "b.txt").write_text("third")
    for known in (0, 2):
        job = client.submit("parse", source={"path": str(folder), "format": "binary"}, cache=True)
        assert job.to_table()["text"].to_pylist() == ["first", "second", "third"]
        assert job.status().rows_cached == known
