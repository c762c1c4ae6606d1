"""The ledger as its users hold it: its parts over one connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.ledger.connection import Store, connect, reaching_redis
from batchmill.ledger.fleet import FleetLedger
from batchmill.ledger.jobs import JobLedger
from batchmill.ledger.profiles import ProfileLedger
from batchmill.ledger.retention import RetentionLedger
from batchmill.ledger.shards import ShardLedger

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from batchmill.settings import ServiceSettings

SUBSCRIPTION_POLL_S = 1.0


class Ledger:
    """The state of all jobs. Thread-safe; reconnects by itself."""

    def __init__(self, client: redis.Redis, prefix: str, *, now_ms: int = 0) -> None:
        self._store = Store(client, prefix, now_ms=now_ms)
        self.jobs = JobLedger(self._store)
        self.shards = ShardLedger(self._store)
        self.fleet = FleetLedger(self._store)
        self.retention = RetentionLedger(self._store)
        self.profiles = ProfileLedger(self._store)

    @classmethod
    def open(cls, settings: ServiceSettings) -> Ledger:
        """The ledger that the settings name; does not connect yet."""
        return cls(connect(settings.redis_url), settings.redis_prefix)

    def now_ms(self) -> int:
        """The time by which leases are judged: the server's, milliseconds since the epoch."""
        if self._store.now_ms:
            return self._store.now_ms
        with reaching_redis():
            seconds, micros = self._store.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def ping(self) -> None:
        """Raise `ServiceUnavailable` when Redis cannot be reached."""
        with reaching_redis():
            self._store.redis.ping()

    def queue_length(self, queue: str) -> int:
        """How many messages lie in a Celery queue."""
        with reaching_redis():
            return int(self._store.redis.llen(f"{self._store.keys.prefix}{queue}"))

    def lead(self, name: str, ttl_s: float) -> int:
        """Take or keep the lead; returns the epoch, or 0 when another coordinator leads."""
        keys = self._store.keys
        return int(self._store.run("lead", [keys.leader(), keys.leader_epoch()], [name, int(ttl_s * 1000)]))

    def resign(self, name: str) -> None:
        """Give the lead back, if it is held under this name."""
        self._store.run("resign", [self._store.keys.leader()], [name])

    def has_leader(self) -> bool:
        """Whether some coordinator leads."""
        with reaching_redis():
            return bool(self._store.redis.exists(self._store.keys.leader()))

    def events(self) -> Iterator[tuple[str, str] | None]:
        """Changes as they happen, (kind, job id), and None at least once a second; some may be missed.

        Ends with `ServiceUnavailable` when the connection breaks; call it again to go on.
        """
        with reaching_redis(), self._store.redis.pubsub(ignore_subscribe_messages=True) as channel:
            channel.subscribe(self._store.keys.events())
            yield None
            while True:
                message = channel.get_message(timeout=SUBSCRIPTION_POLL_S)
                if message is None:
                    yield None
                    continue
                kind, _, job_id = message["data"].decode().partition(" ")
                yield kind, job_id

    def close(self) -> None:
        """Close the connections."""
        self._store.redis.close()
