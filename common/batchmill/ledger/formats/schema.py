"""The version of the ledger's data formats."""

from __future__ import annotations

from batchmill.errors import InvalidSettings

SCHEMA = 7
"""Goes up when scripts or blobs are written as the version before would misread, or the other way round."""


def other_schema(found: int, prefix: str = "", version: int = SCHEMA) -> InvalidSettings:
    """The error for a ledger that is kept in other data formats than this build reads and writes."""
    ledger = f"the ledger under {prefix!r}" if prefix else "the ledger"
    return InvalidSettings(
        f"{ledger} has data formats of version {found}, this Batchmill has version {version}.",
        hint="Only one version of Batchmill may use a ledger. With the version that wrote it, let its jobs end, delete "
        "them and stop its workers; then start this one. Or set BATCHMILL_REDIS_PREFIX, so that this one has a ledger "
        "of its own.",
        found=found,
        expected=version,
    )
