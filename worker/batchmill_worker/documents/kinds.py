"""The kind of a document: by its content, and by the ending of its name where the content leaves it open."""

from __future__ import annotations

import codecs
import io
import re
import zipfile
from enum import StrEnum
from pathlib import PurePosixPath


class Unreadable(Exception):
    """A document that cannot be read; the message says why, after "the file"."""


class Kind(StrEnum):
    """The kinds of documents that can be parsed."""

    PDF = "pdf"
    HTML = "html"
    DOCX = "docx"
    MARKDOWN = "markdown"
    TEXT = "text"


ENDINGS = {
    ".pdf": Kind.PDF,
    ".htm": Kind.HTML,
    ".html": Kind.HTML,
    ".xhtml": Kind.HTML,
    ".docx": Kind.DOCX,
    ".md": Kind.MARKDOWN,
    ".markdown": Kind.MARKDOWN,
    ".txt": Kind.TEXT,
}
DOCX_BODY = "word/document.xml"

_PDF_HEAD_BYTES = 1024
"""A PDF may have other bytes before its header, up to this many."""
_BINARY_HEAD_BYTES = 4096
_ZIP = b"PK\x03\x04"
_FOREIGN = {
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an Office file of the old format, or an encrypted one",
    b"\x89PNG\r\n": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"\x1f\x8b": "gzip-compressed",
    b"\x7fELF": "a program",
    b"PAR1": "a Parquet file",
}
_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # of text that has zero bytes
_HTML = re.compile(
    r"\s*(?:<\?xml[^>]*>\s*|<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)


def kind_of(data: bytes, path: str, *, is_encoded: bool = False) -> Kind:
    """Return the kind of a document.

    path: its name; "": unknown.
    is_encoded: whether the encoding of its text is known, which may have zero bytes then.

    Raises `Unreadable` if it is of no kind that can be parsed, or if its name says another one than its content.
    """
    ending = PurePosixPath(path).suffix.lower()
    named = ENDINGS.get(ending)
    found = _by_content(data, is_encoded=is_encoded)
    if found is None and named in (Kind.HTML, Kind.MARKDOWN, Kind.TEXT):
        return named
    if found is None:
        found = Kind.HTML if looks_like_html(data[:_BINARY_HEAD_BYTES].decode("latin-1")) else Kind.TEXT
    if named is not None and found is not named:
        raise Unreadable(
            f"is named {ending}, but its content is {found}: it begins with {data[:16]!r}. Rename it, or set "
            f"kind='{found}'"
        )
    return found


def kind_of_text(text: str, path: str) -> Kind:
    """Return the kind of a document that is text already: HTML, Markdown or plain text."""
    named = ENDINGS.get(PurePosixPath(path).suffix.lower())
    if named in (Kind.HTML, Kind.MARKDOWN, Kind.TEXT):
        return named
    return Kind.HTML if looks_like_html(text[:_BINARY_HEAD_BYTES]) else Kind.TEXT


def looks_like_html(head: str) -> bool:
    """Whether a text begins as an HTML page does."""
    return _HTML.match(head.lstrip("\ufeffï»¿")) is not None


def _by_content(data: bytes, *, is_encoded: bool) -> Kind | None:
    """Return the kind that the content alone decides; None for text. Raises `Unreadable` for foreign formats."""
    if b"%PDF-" in data[:_PDF_HEAD_BYTES]:
        return Kind.PDF
    if data.startswith(_ZIP):
        return _of_archive(data)
    for head, name in _FOREIGN.items():
        if data.startswith(head):
            raise Unreadable(f"is {name}, which is no document that can be parsed")
    if not is_encoded and b"\0" in data[:_BINARY_HEAD_BYTES] and not data.startswith(_MARKS):
        raise Unreadable(f"is no text and no known format: it begins with {data[:16]!r}")
    return None


def _of_archive(data: bytes) -> Kind:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if DOCX_BODY in archive.namelist():
                return Kind.DOCX
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise Unreadable(f"is a damaged ZIP archive: {error}") from error
    raise Unreadable("is a ZIP archive, but no Word document")
