"""How far a source was split, as the short text that the ledger keeps."""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class SourceCursor:
    """A position in a source: always at a row, or behind the last file."""

    file: int = 0  # its index among the source's files
    offset: int = 0  # rows into a Parquet or Arrow file; bytes of text into any other
    line: int = 1  # 1-based line at that offset, where a format has lines
    row: int = 0  # 0-based row of the source

    def text(self) -> str:
        """Return the cursor as compact JSON."""
        return json.dumps(astuple(self), separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse what `text` returned; the empty text is the beginning."""
        return cls(*json.loads(text)) if text else cls()
