"""The messages of webhooks, as a client sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from batchmill.client.connection.answers import DeliveriesAnswer
from batchmill.jobs.webhooks.delivery import WebhookDelivery

if TYPE_CHECKING:
    from batchmill.client.connection.transport import Transport


class WebhookCalls:
    """What a client asks for about webhooks. A part of `AsyncClient`."""

    _transport: Transport

    async def webhook_deliveries(self, limit: int = 50) -> list[WebhookDelivery]:
        """List the messages that webhooks send about jobs, the newest first.

        Args:
            limit: At most this many, 1 to 1000.

        Returns:
            Those that are to be sent, were delivered in the last hour, or were given up in the last week.
        """
        found = await self._transport.json("GET", "/v1/webhooks/deliveries", query={"limit": str(limit)})
        return self._transport.parse(DeliveriesAnswer, found).deliveries

    async def replay_webhook(self, delivery_id: str) -> WebhookDelivery:
        """Send a message again, under the same id.

        Args:
            delivery_id: The id of the message.

        Returns:
            The message, which is pending again.

        Raises:
            NotFound: There is no such message.
        """
        path = f"/v1/webhooks/deliveries/{quote(delivery_id, safe='')}/replay"
        return self._transport.parse(WebhookDelivery, await self._transport.json("POST", path))
