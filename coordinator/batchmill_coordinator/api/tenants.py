"""Who a bearer token belongs to and what it allows: the one place where rights are read and decided."""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batchmill.errors import Forbidden, InvalidSettings
from batchmill.jobs.job import DEFAULT_TENANT
from batchmill.tokens import ROLES, split_entry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TENANT_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
READ_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Access:
    """What one request may see and do."""

    tenant: str  # its jobs belong to this one
    sees_all: bool = False  # every tenant's jobs, and the state of the service
    read_only: bool = False
    metrics_only: bool = False

    def may_see(self, tenant: str) -> bool:
        """Whether what belongs to `tenant` exists for this request."""
        return self.sees_all or tenant == self.tenant

    def require_method(self, method: str) -> None:
        """Raise `Forbidden` when a read-only token is to change something."""
        if self.read_only and method not in READ_METHODS:
            raise Forbidden("the token is read-only.", hint="Use a token without `read:` in BATCHMILL_TOKENS.")

    def require_admin(self, action: str) -> None:
        """Raise `Forbidden` unless the token may act for all tenants. action: as in "clear the row cache"."""
        if not self.sees_all:
            raise Forbidden(
                f"only an admin token may {action}.",
                hint="Use a token with `admin:` in BATCHMILL_TOKENS.",
                needs="admin",
            )


def parse_tokens(entries: Sequence[str]) -> dict[bytes, Access]:
    """What each token allows, from entries `[read:][admin:][TENANT:]TOKEN`; without a tenant it is "default".

    Where no entry names a tenant or `admin:` there is one tenant, and its tokens are admin tokens. Raises
    `InvalidSettings`, which names an entry by its place, since it is a secret.
    """
    found: dict[bytes, Access] = {}
    for place, entry in enumerate(entries, start=1):
        token, access = _parse_entry(entry, place)
        if found.setdefault(token, access) != access:
            raise _unfit(place, "has the token of another tenant or with other rights")
    if all(access.tenant == DEFAULT_TENANT and not access.sees_all for access in found.values()):
        return {token: replace(access, sees_all=True) for token, access in found.items()}
    return found


def find_access(token: bytes, known: Mapping[bytes, Access]) -> Access | None:
    """What a token allows, or None for an unknown one; the time it takes is the same for all tokens."""
    matches = [access for each, access in known.items() if hmac.compare_digest(token, each)]
    return matches[0] if matches else None


def _parse_entry(entry: str, place: int) -> tuple[bytes, Access]:
    roles, named, token = split_entry(entry)
    tenant = DEFAULT_TENANT if named is None else named
    if not TENANT_PATTERN.fullmatch(tenant) or tenant in ROLES:
        raise _unfit(place, "has a tenant that is no name of letters, digits and any of _.-, at most 64")
    if not token:
        raise _unfit(place, "has no token after its tenant")
    return token.encode(), Access(tenant, sees_all="admin" in roles, read_only="read" in roles)


def _unfit(place: int, what: str) -> InvalidSettings:
    return InvalidSettings(
        f"entry {place} of BATCHMILL_TOKENS {what}.",
        hint="Separate entries by commas, each [read:][admin:][TENANT:]TOKEN.",
        name="BATCHMILL_TOKENS",
    )
