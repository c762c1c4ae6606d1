"""Reads the text of one document, whatever its kind. This runs in the child process."""

from __future__ import annotations

import codecs
import re
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from batchmill_worker.documents.docx import docx_text
from batchmill_worker.documents.kinds import Kind, Unreadable, kind_of, kind_of_text

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_TEXT_CHARACTERS = 64 * 2**20
"""The most text of one document."""

LIBRARIES = {Kind.PDF: "pypdfium2", Kind.HTML: "resiliparse"}
"""The libraries that kinds need; the extra of Batchmill that installs one has the name of the kind."""

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_DECLARED = re.compile(
    rb"""<(?:meta|\?xml)[^>]{0,500}?(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]{1,40})""", re.IGNORECASE
)
_DECLARED_WITHIN_BYTES = 4096
_LEGACY = "windows-1252"  # what browsers take where nothing is declared
_HYPHEN = re.compile("[\ufffe\x02]\n?")  # PDFium's mark of a word that the end of the line breaks


class LibraryMissing(Exception):
    """The library that parses a kind of document is not installed."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(f"No module named {LIBRARIES[kind]!r}")
        self.kind = kind


def require_library(kind: Kind) -> None:
    """Raise `LibraryMissing` if the library that a kind needs is not installed."""
    if kind in LIBRARIES and find_spec(LIBRARIES[kind]) is None:
        raise LibraryMissing(kind)


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read a document.

    kind: None: by content and name.
    path: its name; "": unknown.
    is_text: whether the data was text, which is UTF-8 then.
    main_content: of HTML, leave out navigation and the like.
    encoding: of text, Markdown and HTML; None: see `decode`.
    """

    kind: Kind | None
    path: str
    is_text: bool
    main_content: bool
    encoding: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """The text of a page. number: from 1; None in kinds without pages."""

    number: int | None
    text: str


def read_document(data: bytes, reading: Reading) -> tuple[Kind, list[Page]]:
    """Return the kind of a document, and its pages. A document without pages is one.

    Raises `Unreadable`, and `LibraryMissing`.
    """
    if not data:
        raise Unreadable("is empty")
    kind = reading.kind or (kind_of_text(data.decode(), reading.path) if reading.is_text else None)
    kind = kind or kind_of(data, reading.path, is_encoded=reading.encoding is not None)
    if reading.is_text and kind in (Kind.PDF, Kind.DOCX):
        raise Unreadable(f"is text, but a {kind} document is bytes")
    require_library(kind)
    pages = []
    total = 0
    for page in _pages(kind, data, reading):
        total += len(page.text)
        if total > MAX_TEXT_CHARACTERS:
            raise Unreadable(f"has more than {MAX_TEXT_CHARACTERS:,} characters of text")
        pages.append(page)
    return kind, pages


def decode(data: bytes, encoding: str | None, *, declares: bool = False) -> str:
    """Return bytes as text, with `\\n` as the line break.

    encoding: None: what the byte order mark says; else, if it `declares` one as HTML does, that; else UTF-8 if it is
        valid, else Windows-1252.

    Raises `Unreadable` if the bytes do not fit. Of HTML such bytes are replaced, as in browsers, unless `encoding` says
    what it is.
    """
    marked = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
    known = encoding or marked or (_declared(data) if declares else None)
    tried = [known] if known else ["utf-8", _LEGACY]
    for name in tried:
        with suppress(UnicodeError):
            return _with_line_feeds(data.decode(name))
    if declares and not encoding:
        return _with_line_feeds(data.decode(tried[-1], "replace"))
    raise Unreadable(f"is not valid in {' or '.join(tried)}; the parameter 'encoding' says what it is")


def _with_line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")


def _declared(data: bytes) -> str | None:
    found = _DECLARED.search(data[:_DECLARED_WITHIN_BYTES])
    if found is None:
        return None
    name = found.group(1).decode("ascii", "replace").lower()
    known = text_encoding(name)
    if known in ("iso8859-1", "ascii"):
        return _LEGACY  # as in browsers
    return None if known is None or known.startswith(("utf-16", "utf-32")) else known  # it was read byte by byte


def text_encoding(name: str) -> str | None:
    """Return Python's own name of an encoding of text; None if there is none of that name."""
    try:
        with suppress(UnicodeError):
            b" ".decode(name)  # refuses codecs that are for something else than text
        return codecs.lookup(name).name
    except LookupError:
        return None


def _pages(kind: Kind, data: bytes, reading: Reading) -> Iterator[Page]:
    if kind is Kind.PDF:
        yield from _pdf_pages(data)
    elif kind is Kind.DOCX:
        yield Page(None, docx_text(data))
    elif kind is Kind.HTML:
        text = data.decode() if reading.is_text else decode(data, reading.encoding, declares=True)
        yield Page(None, _html_text(text, main_content=reading.main_content))
    else:
        yield Page(None, data.decode() if reading.is_text else decode(data, reading.encoding))


def _html_text(html: str, *, main_content: bool) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    return str(extract_plain_text(html, main_content=main_content))


def _pdf_pages(data: bytes) -> Iterator[Page]:
    import pypdfium2
    from pypdfium2.raw import FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if error.err_code in (FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY):
            raise Unreadable("is an encrypted PDF, which only a password opens") from error
        raise Unreadable(f"is no PDF, or a damaged one: {error}") from error
    with document:
        for place in range(len(document)):
            try:
                with closing(document[place]) as page, closing(page.get_textpage()) as content:
                    text = content.get_text_range()
            except pypdfium2.PdfiumError as error:
                raise Unreadable(f"is a damaged PDF: page {place + 1}: {error}") from error
            yield Page(place + 1, _HYPHEN.sub("", text.replace("\r\n", "\n")).replace("\0", ""))
