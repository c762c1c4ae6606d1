"""The version of the ledger's data formats."""

from __future__ import annotations

from batchmill.errors import InvalidSettings

SCHEMA = 2
"""Goes up when scripts write what those of the version before would misread, or the other way round."""


def other_schema(found: int, prefix: str = "", version: int = SCHEMA) -> InvalidSettings:
    """The error for a ledger that is kept in other data formats than this build reads and writes."""
    ledger = f"the ledger under {prefix!r}" if prefix else "the ledger"
    return InvalidSettings(
        f"{ledger} is kept in data formats of version {found}, this Batchmill has version {version}.",
        hint="Run one version of Batchmill over a ledger: let its jobs end and be deleted with the version "
        "that wrote them and stop its workers, then start this one; or give this one a "
        "BATCHMILL_REDIS_PREFIX of its own.",
        found=found,
        expected=version,
    )
