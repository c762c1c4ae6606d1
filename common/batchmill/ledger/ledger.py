"""The ledger as its users hold it: its parts over one connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.ledger.announcements import AnnouncementLedger
from batchmill.ledger.documents import DocumentLedger
from batchmill.ledger.formats.encodings import parse_event
from batchmill.ledger.formats.schema import SCHEMA, other_schema
from batchmill.ledger.identity import IdentityLedger
from batchmill.ledger.job_log import JobLogLedger
from batchmill.ledger.jobs import JobLedger
from batchmill.ledger.lane import LaneLedger
from batchmill.ledger.readers import ReaderLedger
from batchmill.ledger.results import ResultLedger
from batchmill.ledger.retention import RetentionLedger
from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import Store, connect, literally, redis_errors
from batchmill.ledger.shards import ShardLedger
from batchmill.ledger.streams import StreamLedger
from batchmill.ledger.tenants import TenantLedger
from batchmill.ledger.turns import TurnLedger
from batchmill.ledger.unfinished import UnfinishedWorkLedger
from batchmill.ledger.uploads import UploadLedger
from batchmill.ledger.views.costs import CostLedger
from batchmill.ledger.views.index import IndexLedger
from batchmill.ledger.views.overview import OverviewLedger
from batchmill.ledger.views.survey import SurveyLedger
from batchmill.ledger.workers.endpoints import EndpointLedger
from batchmill.ledger.workers.fleet import FleetLedger
from batchmill.ledger.workers.leases import LeaseLedger
from batchmill.ledger.workers.profiles import ProfileLedger
from batchmill.ledger.workers.row_cache import RowCacheLedger
from batchmill.ledger.workers.scale import ScaleLedger
from batchmill.ledger.workers.stragglers import StragglerLedger
from batchmill.ledger.workers.trends import TrendLedger
from batchmill.ledger.workers.trials import TrialLedger
from batchmill.redis_access.permissions import require_permissions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import redis

    from batchmill.settings import ServiceSettings

SUBSCRIPTION_POLL_S = 1.0
PROBE_TTL_MS = 60_000
SUBSCRIBED = "subscribed"
"""The kind of event that says that later changes are announced."""


class Ledger:
    """The state of all jobs. Thread-safe; reconnects by itself."""

    def __init__(self, client: redis.Redis, prefix: str, *, now_ms: int = 0) -> None:
        self._store = Store(client, prefix, now_ms=now_ms)
        self.jobs = JobLedger(self._store)
        self.uploads = UploadLedger(self._store)
        self.files = DocumentLedger(self._store, "file")
        self.batches = DocumentLedger(self._store, "batch")
        self.announcements = AnnouncementLedger(self._store)
        self.deliveries = DocumentLedger(self._store, "delivery")
        self.plans = DocumentLedger(self._store, "plan")
        self.shards = ShardLedger(self._store)
        self.leases = LeaseLedger(self._store)
        self.stragglers = StragglerLedger(self._store)
        self.results = ResultLedger(self._store)
        self.readers = ReaderLedger(self._store)
        self.turns = TurnLedger(self._store)
        self.streams = StreamLedger(self._store)
        self.costs = CostLedger(self._store)
        self.fleet = FleetLedger(self._store)
        self.scale = ScaleLedger(self._store)
        self.endpoints = EndpointLedger(self._store)
        self.unfinished = UnfinishedWorkLedger(self._store)
        self.retention = RetentionLedger(self._store)
        self.identity = IdentityLedger(self._store)
        self.profiles = ProfileLedger(self._store)
        self.trends = TrendLedger(self._store)
        self.trials = TrialLedger(self._store)
        self.log = JobLogLedger(self._store, self.jobs)
        self.overview = OverviewLedger(self._store)
        self.survey = SurveyLedger(self._store)
        self.row_cache = RowCacheLedger(self._store)
        self.tenants = TenantLedger(self._store)
        self.index = IndexLedger(self._store)
        self.lane = LaneLedger(self._store)

    @classmethod
    def open(cls, settings: ServiceSettings) -> Ledger:
        """The ledger that the settings name; does not connect yet."""
        return cls(connect(settings.redis_url), settings.redis_prefix)

    def observe_calls(self, callback: Callable[[str, float, bool], None]) -> None:
        """Call back after every script: its name, how many seconds it took, whether it answered."""
        self._store.on_call = callback

    def now_ms(self) -> int:
        """The time by which leases are judged: the server's, milliseconds since the epoch."""
        return self._store.read_now_ms()

    def ping(self) -> None:
        """Raise `ServiceUnavailable` when Redis cannot be reached."""
        with redis_errors():
            self._store.redis.ping()

    def require_access(self) -> None:
        """Raise `LedgerRefused`, which names what is missing, unless Redis allows this user all that services do."""
        with redis_errors():
            require_permissions(self._store.redis.connection_pool, self._store.keys.prefix, self._store.keys.events())

    def require_schema(self, version: int = SCHEMA) -> None:
        """Raise `InvalidSettings` when this ledger is kept in other data formats than this build reads and writes."""
        found = calls.check_schema(self._store, version=version)
        if found != version:
            raise other_schema(found, self._store.keys.prefix, version)

    def queue_lengths(self, queues: Sequence[str]) -> list[int]:
        """Return the number of messages in each of these Celery queues."""
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            for queue in queues:
                pipe.llen(self._queue_key(queue))
            return [int(length) for length in pipe.execute()]

    def take_messages(self, queue: str) -> list[bytes]:
        """Take at most a hundred messages out of a Celery queue, the oldest first."""
        with redis_errors():
            return self._store.redis.rpop(self._queue_key(queue), 100) or []

    def find_queues(self, begins_with: str) -> list[str]:
        """The Celery queues that hold messages and whose name begins so. Walks over all keys: not for every step."""
        begin = self._queue_key("")
        with redis_errors():
            found = self._store.redis.scan_iter(f"{literally(begin + begins_with)}*", count=1000, _type="list")
            return sorted(key.decode().removeprefix(begin) for key in found)

    def _queue_key(self, queue: str) -> str:
        return f"{self._store.keys.prefix}{queue}"

    def lead(self, name: str, ttl_s: float) -> int:
        """Take or keep the lead; returns the epoch, or 0 when another coordinator leads."""
        return calls.lead(self._store, name=name, lease_ms=int(ttl_s * 1000))

    def resign(self, name: str) -> None:
        """Give the lead back, if it is held under this name."""
        calls.resign(self._store, name=name)

    def probe(self) -> bool:
        """Return whether some coordinator leads. Raises `ServiceUnavailable` when the server takes no writes."""
        keys = self._store.keys
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            pipe.set(keys.probe(), b"", px=PROBE_TTL_MS)
            pipe.exists(keys.leader())
            return bool(pipe.execute()[1])

    def events(self) -> Iterator[tuple[str, str] | None]:
        """Changes as they happen, (kind, job id), and None at least once a second.

        The first change is (`SUBSCRIBED`, ""): what happened before it was missed, so read afterwards. Ends with
        `ServiceUnavailable` when the connection breaks; call it again to continue.
        """
        with redis_errors(), self._store.redis.pubsub() as channel:
            channel.subscribe(self._store.keys.events())
            while True:
                message = channel.get_message(timeout=SUBSCRIPTION_POLL_S)
                if message is None:
                    yield None
                    continue
                if message["type"] != "message":
                    yield SUBSCRIBED, ""
                    continue
                yield parse_event(message["data"])

    def close(self) -> None:
        """Close the connections."""
        self._store.redis.close()
