"""The demo's corpus: Python's own language reference, which is part of every CPython."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from batchmill.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNDERLINE = re.compile(r"^\s*([*=\-~^\"])\1{3,}\s*$", re.MULTILINE)


def language_reference() -> dict[str, str]:
    """Return the chapters of the language reference by topic. Raises `MissingExtra` if this Python lacks them."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise MissingExtra(
            "the demo reads Python's language reference from the standard module pydoc_data, which is not installed.",
            hint="Install the complete standard library (on Debian and Ubuntu: apt install libpython3-stdlib).",
        ) from error
    return dict(topics)


def chapters(topics: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the rows `{topic, text}` of a corpus in alphabetical order, without the lines that underline headings."""
    return [{"topic": topic, "text": _UNDERLINE.sub("", topics[topic]).strip()} for topic in sorted(topics)]
