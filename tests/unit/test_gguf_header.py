"""Headers of GGUF files that were made to mislead their reader."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from batchmill_worker.generation.engines.gguf_header import MAGIC, GgufModel, read_gguf

if TYPE_CHECKING:
    from pathlib import Path

UINT32, TEXT, ARRAY = 4, 8, 9


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


def header(*entries: tuple[str, int, bytes]) -> bytes:
    written = b"".join(text(key) + struct.pack("<I", kind) + value for key, kind, value in entries)
    return MAGIC + struct.pack("<IQQ", 3, 0, len(entries)) + written


def test_arrays_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(
        header(
            ("general.architecture", TEXT, text("llama")),
            ("general.tags", ARRAY, array(TEXT, 2, text("a") + text("b"))),
            ("general.numbers", ARRAY, array(UINT32, 3, bytes(12))),
            ("llama.context_length", UINT32, struct.pack("<I", 2048)),
        )
    )
    assert read_gguf(path) == GgufModel(2048, 0)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (array(ARRAY, 1) * 5000, "unknown type 9"),
        (array(UINT32, 2**64 - 1), "an array of"),
        (array(TEXT, 2**64 - 1), "not complete"),
        (array(99, 1), "unknown type 99"),
    ],
    ids=["nested", "numbers", "texts", "unknown"],
)
def test_an_array_that_cannot_be_is_refused(tmp_path: Path, value: bytes, why: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(header(("general.tags", ARRAY, value)))
    with pytest.raises(ValueError, match=why):
        read_gguf(path)
