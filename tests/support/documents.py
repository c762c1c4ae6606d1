"""Documents to test `parse` with, made when they are asked for: good ones, and ones that break their parsers."""

from __future__ import annotations

import ctypes
import io
import zipfile
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def pdf(pages: Sequence[str]) -> bytes:
    """A PDF with a line of text on each page, by PDFium itself."""
    import pypdfium2
    from pypdfium2 import raw

    with pypdfium2.PdfDocument.new() as document:
        font = raw.FPDFText_LoadStandardFont(document.raw, b"Helvetica")
        for text in pages:
            page = document.new_page(300, 300)
            line = raw.FPDFPageObj_CreateTextObj(document.raw, font, ctypes.c_float(12))
            units = f"{text}\0".encode("utf-16-le")
            raw.FPDFText_SetText(line, (ctypes.c_ushort * (len(units) // 2)).from_buffer_copy(units))
            raw.FPDFPageObj_Transform(line, 1, 0, 0, 1, 20, 200)
            raw.FPDFPage_InsertObject(page.raw, line)
            raw.FPDFPage_GenerateContent(page.raw)
            page.close()
        raw.FPDFFont_Close(font)
        written = io.BytesIO()
        document.save(written)
    return written.getvalue()


def pdf_with(content: bytes, filters: str, *, encrypt: str = "") -> bytes:
    """A PDF of one page, by hand. content: of the page, as the filters have packed it."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d /Filter %s >>\nstream\n%s\nendstream" % (len(content), filters.encode(), content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    written = b"%PDF-1.4\n"
    offsets = []
    for number, one in enumerate(objects, 1):
        offsets.append(len(written))
        written += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    table = len(written)
    written += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    written += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = f"<< /Size {len(objects) + 1} /Root 1 0 R {encrypt} >>"
    return written + f"trailer\n{trailer}\nstartxref\n{table}\n%%EOF\n".encode()


def encrypted_pdf() -> bytes:
    """A PDF that only a password opens, which nobody knows."""
    key = "00" * 32
    encrypt = f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{key}> /U <{key}> /P -4 >> /ID [<00> <00>]"
    return pdf_with(zlib.compress(b""), "/FlateDecode", encrypt=encrypt)


def pdf_bomb(megabytes: int) -> bytes:
    """A PDF whose page unpacks to this many megabytes of zero bytes, from less than a kilobyte."""
    packer = zlib.compressobj(9)
    zeros = bytes(2**20)
    packed = b"".join([*(packer.compress(zeros) for _ in range(megabytes)), packer.flush()])
    return pdf_with(zlib.compress(zlib.compress(packed)), "[/FlateDecode /FlateDecode /FlateDecode]")


def docx(body: str, *, prolog: str = "") -> bytes:
    """A Word document. body: the XML within `w:body`."""
    xml = f'{prolog}<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>'
    return archive({"[Content_Types].xml": "<Types/>", "word/document.xml": xml})


def paragraph(text: str) -> str:
    """The XML of a paragraph in a Word document."""
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def archive(files: dict[str, str]) -> bytes:
    """A ZIP archive."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return written.getvalue()


def docx_bomb(megabytes: int) -> bytes:
    """A Word document with this many megabytes of text in a paragraph."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as packed, packed.open("word/document.xml", "w") as body:
        body.write(f'<w:document xmlns:w="{WORD}"><w:body><w:p><w:r><w:t>'.encode())
        for _ in range(megabytes):
            body.write(b"A" * 2**20)
    return written.getvalue()


def deep_html(depth: int) -> bytes:
    """An HTML page of elements within each other, which takes its parser the square of their number."""
    return b"<html><body>" + b"<div>" * depth + b"x"
