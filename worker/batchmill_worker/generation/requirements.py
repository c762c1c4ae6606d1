"""The libraries that language models need."""

from __future__ import annotations

from batchmill.errors import MissingExtra

EXTRA = "generate"


def missing_extra(operator: str, what: object) -> MissingExtra:
    """Make the error for a library that is not installed."""
    return MissingExtra(
        f"operator {operator!r} needs the libraries of the extra {EXTRA!r}: {what}.",
        hint=f"Install it on every worker: pip install 'batchmill[{EXTRA}]'.",
    )
