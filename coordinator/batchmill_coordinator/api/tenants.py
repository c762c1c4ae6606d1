"""Tenants: whom a bearer token belongs to, for what their jobs cost. All have the same rights."""

from __future__ import annotations

import hmac
import re
from typing import TYPE_CHECKING

from batchmill.errors import InvalidSettings
from batchmill.job import DEFAULT_TENANT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TENANT_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def parse_tokens(entries: Sequence[str]) -> dict[bytes, str]:
    """The tenant of each token, from entries `token` (of the tenant "default") and `tenant:token`.

    Raises `InvalidSettings`, which names an entry by its place, since it is a secret.
    """
    tenants: dict[bytes, str] = {}
    for place, entry in enumerate(entries, start=1):
        name, colon, token = entry.partition(":")
        tenant, token = (name.strip(), token.strip()) if colon else (DEFAULT_TENANT, entry)
        if not TENANT_PATTERN.fullmatch(tenant):
            raise _unfit(place, "has a tenant that is no name of letters, digits and any of _.-, at most 64")
        if not token:
            raise _unfit(place, "has no token behind its tenant")
        if tenants.setdefault(token.encode(), tenant) != tenant:
            raise _unfit(place, "has the token of another tenant")
    return tenants


def tenant_of(token: bytes, tenants: Mapping[bytes, str]) -> str | None:
    """Whose token this is, found in a time that tells nothing about the others; None: nobody's."""
    matches = [tenant for known, tenant in tenants.items() if hmac.compare_digest(token, known)]
    return matches[0] if matches else None


def _unfit(place: int, what: str) -> InvalidSettings:
    return InvalidSettings(
        f"entry {place} of BATCHMILL_TOKENS {what}.",
        hint="Separate entries by commas, each a token or TENANT:TOKEN.",
        name="BATCHMILL_TOKENS",
    )
