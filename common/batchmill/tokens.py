"""The form of an entry of BATCHMILL_TOKENS: `[read:][admin:][TENANT:]TOKEN`. Pure."""

from __future__ import annotations

from typing import NamedTuple

ROLES = ("read", "admin")


class TokenEntry(NamedTuple):
    """The parts of an entry."""

    roles: frozenset[str]
    tenant: str | None
    token: str  # what clients send


def split_entry(entry: str) -> TokenEntry:
    """The parts of an entry, none of them checked."""
    rest, roles = entry, set()
    for role in ROLES:
        if rest.startswith(f"{role}:"):
            roles.add(role)
            rest = rest.removeprefix(f"{role}:")
    tenant, colon, token = rest.partition(":")
    return TokenEntry(frozenset(roles), tenant.strip() if colon else None, (token if colon else rest).strip())
