"""What a service takes in a minute, divided among all workers by the ledger."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING

from batchmill.errors import ServiceUnavailable
from batchmill_worker.generation.engines.request_limiter import MAX_RETRY_AFTER_S

if TYPE_CHECKING:
    from batchmill.ledger.workers.endpoints import EndpointLedger
    from batchmill.storage.named_endpoints import NamedEndpoint
    from batchmill_worker.generation.base import Generation

log = logging.getLogger(__name__)

CHARACTERS_PER_TOKEN = 4
"""Of prompts, whose tokens only the service knows before it has answered."""
MIN_WAIT_S = 0.01


def tokens_of(generation: Generation) -> int:
    """Return how many tokens a request may have: its prompt, estimated, and its longest answer."""
    characters = sum(len(message.text) for message in generation.prompt.draft.messages)
    return math.ceil(characters / CHARACTERS_PER_TOKEN) + generation.sampling.max_tokens


class SharedLimits:
    """For one event loop. limits: None: no other worker is known, so nothing is asked.

    A ledger that cannot be reached holds no request: the service itself says what is too much.
    """

    def __init__(self, endpoint: NamedEndpoint, limits: EndpointLedger | None) -> None:
        self._endpoint = endpoint
        self._limits = limits
        self._returned = 0

    async def take(self, tokens: int) -> None:
        """Wait until a request of that many tokens may go, and take its share."""
        if self._limits is None:
            return
        while True:
            returned, self._returned = self._returned, 0
            try:
                wait_s = await asyncio.to_thread(self._limits.take, self._endpoint, tokens, returned)
            except ServiceUnavailable as error:
                log.warning("the limits of the endpoint are not shared just now: %s", error)
                return
            if not wait_s:
                return
            await asyncio.sleep(max(wait_s, MIN_WAIT_S))

    def give_back(self, tokens: int) -> None:
        """Give back what a request has taken and not had; below 0, it had more than that."""
        self._returned += tokens

    async def hold(self, seconds: float | None) -> None:
        """Let all workers leave the service alone, as it has asked; None: it has not."""
        if self._limits is None or seconds is None:
            return
        try:
            await asyncio.to_thread(self._limits.hold, self._endpoint, min(seconds, MAX_RETRY_AFTER_S))
        except ServiceUnavailable as error:
            log.warning("other workers do not know that the endpoint wants to be left alone: %s", error)
