"""The limits of services of language models, which all workers share, for each address and key."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from batchmill.ledger.scripting import calls

if TYPE_CHECKING:
    from batchmill.ledger.scripting.connection import Store
    from batchmill.storage.named_endpoints import NamedEndpoint

NO_REQUEST = -1


class EndpointLedger:
    """What services take in a minute. Thread-safe. Raises `ServiceUnavailable` when Redis cannot be reached."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def take(self, endpoint: NamedEndpoint, tokens: int, returned: int = 0) -> float:
        """Return how long to wait before asking again, seconds; 0: the request may go now, and has taken its share.

        tokens: that the request may have. returned: those that requests before it have taken and not had.
        """
        return self._call(endpoint, tokens, returned, 0)

    def hold(self, endpoint: NamedEndpoint, seconds: float) -> None:
        """Leave a service alone for a time, in all workers."""
        self._call(endpoint, NO_REQUEST, 0, max(int(seconds * 1000), 1))

    def _call(self, endpoint: NamedEndpoint, taken: int, returned: int, hold_ms: int) -> float:
        wait_ms = calls.take_request(
            self._store,
            endpoint=_digest(endpoint),
            requests=endpoint.requests_per_minute or 0,
            tokens=endpoint.tokens_per_minute or 0,
            taken=taken,
            returned=returned,
            hold_ms=hold_ms,
        )
        return wait_ms / 1000


def _digest(endpoint: NamedEndpoint) -> str:
    text = f"{endpoint.url.rstrip('/')}\0{endpoint.key() or ''}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
