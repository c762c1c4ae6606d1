"""What the blocking client asks about webhooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchmill.client.asynchronous import AsyncClient
    from batchmill.client.loop import LoopThread
    from batchmill.jobs.webhooks.delivery import WebhookDelivery


class BlockingWebhooks:
    """What a client asks about webhooks. A part of `Client`."""

    _async: AsyncClient
    _loop: LoopThread

    def webhook_deliveries(self, limit: int = 50) -> list[WebhookDelivery]:
        """List the messages that webhooks send about jobs, the newest first.

        Args:
            limit: At most this many, 1 to 1000.

        Returns:
            Those that are to be sent, were delivered in the last hour, or were given up in the last week.
        """
        return self._loop.run(self._async.webhook_deliveries(limit))

    def replay_webhook(self, delivery_id: str) -> WebhookDelivery:
        """Send a message again, under the same id.

        Args:
            delivery_id: The id of the message.

        Returns:
            The message, which is pending again.

        Raises:
            NotFound: There is no such message.
        """
        return self._loop.run(self._async.replay_webhook(delivery_id))
