"""The text of a Word document (.docx): a ZIP archive with XML in it, read as a stream and within limits.

Rejected: python-docx. It builds the tree of all XML in memory, whatever its size; and it has had no release for a year.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections import Counter
from typing import TYPE_CHECKING, Any
from xml.parsers import expat

from batchmill_worker.documents.kinds import DOCX_BODY, Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_XML_BYTES = 256 * 2**20
_PIECE_BYTES = 64 * 1024
_ENCRYPTED = 1  # of a ZIP entry's flags

_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main "
_STRICT_W = "http://purl.oclc.org/ooxml/wordprocessingml/main "
_SKIPPED = {
    "http://schemas.openxmlformats.org/markup-compatibility/2006 Fallback",  # its text is in the choice as well
    f"{_W}moveFrom",  # and of moved text, where it is now
    f"{_STRICT_W}moveFrom",
}
_BREAKS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}


def docx_text(data: bytes) -> str:
    """Return the text of the body: a line for each paragraph, tables row by row with tabs between the cells.

    Raises `Unreadable`.
    """
    body = _Body()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = body.start
    parser.EndElementHandler = body.end
    parser.CharacterDataHandler = body.text
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        for piece in _pieces(data):
            parser.Parse(piece, False)
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise Unreadable(f"is a damaged Word document: {error}") from error
    return "".join(body.written).strip("\n")


def _pieces(data: bytes) -> Iterator[bytes]:
    taken = 0
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entry = archive.getinfo(DOCX_BODY)
            if entry.flag_bits & _ENCRYPTED:
                raise Unreadable("is encrypted")
            with archive.open(entry) as stream:
                while piece := stream.read(_PIECE_BYTES):
                    taken += len(piece)
                    if taken > MAX_XML_BYTES:
                        raise Unreadable(
                            f"unpacks to more than {MAX_XML_BYTES // 2**20} MiB of XML from {len(data):,} bytes"
                        )
                    yield piece
    except KeyError as error:
        raise Unreadable(f"is no Word document: it has no {DOCX_BODY}") from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError) as error:
        raise Unreadable(f"is a damaged Word document: {error}") from error


def _refuse_doctype(*_: Any) -> None:
    raise Unreadable("is no Word document: its XML declares a document type")


class _Body:
    """Collects the text of the elements of a body."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self._open: Counter[str] = Counter()  # elements by their names

    def start(self, name: str, _attributes: Any) -> None:
        if name in _SKIPPED:
            self._open["skipped"] += 1
        local = _local(name)
        self._open[local] += 1
        if local in _BREAKS and self._is_shown("r"):
            self.written.append(_BREAKS[local])

    def end(self, name: str) -> None:
        local = _local(name)
        self._open[local] -= 1
        if name in _SKIPPED:
            self._open["skipped"] -= 1
        if self._open["skipped"]:
            return
        if local == "p":
            self.written.append(" " if self._open["tc"] else "\n")
        elif local == "tc":
            self._close(" ", "\t")
        elif local == "tr":
            self._close("\t", "\n")

    def text(self, text: str) -> None:
        if self._is_shown("t"):
            self.written.append(text)

    def _is_shown(self, within: str) -> bool:
        return self._open[within] > 0 and not self._open["skipped"]

    def _close(self, last: str, end: str) -> None:
        if self.written and self.written[-1] == last:
            self.written.pop()
        self.written.append(end)


def _local(name: str) -> str:
    """Return the name of an element of Word's own namespace; "" for others."""
    for namespace in (_W, _STRICT_W):
        if name.startswith(namespace):
            return name[len(namespace) :]
    return ""
