"""A process's clients of a Kafka cluster. No group decides what is read: each client is assigned its offsets.

librdkafka connects again by itself. What it cannot reach in time raises `confluent_kafka.KafkaException`.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from batchmill.streams.base import Message

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.storage.named_stream_servers import NamedStreamServer

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
"""For an answer of the cluster."""
AT_END = KafkaError._PARTITION_EOF  # noqa: SLF001  # what the client itself reports is named like that
TIMED_OUT = KafkaError._TIMED_OUT  # noqa: SLF001  # as above
ALL_DOWN = KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001  # as above
NO_OFFSET = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)  # noqa: SLF001  # as above
"""What a consumer reports whose partition does not have the offset."""
KNOWN_FOR_S = 1.0
"""How long the partitions of a topic and their ends are taken for known: a planner asks in every step."""
READ_AT_ONCE = 1000
QUEUED_KB = 16 * 1024
"""KiB that librdkafka reads ahead for a consumer."""


class Extent(NamedTuple):
    """What a partition has: offsets from `first` to before `end`."""

    first: int
    end: int


class KafkaClient:
    """The clients of one cluster. Thread-safe."""

    def __init__(self, server: NamedStreamServer) -> None:
        self._server = server
        self._options = _options(server)
        self._last_error = ""  # what the client has met last, which it tries to get over
        self._admin = AdminClient({**self._options, "logger": log, "error_cb": self._on_error})
        self._known: dict[str, tuple[float, dict[int, Extent]]] = {}  # by topic, with when it was asked, monotonic
        self._lock = threading.Lock()
        self._reader: Any = None
        self._committers: dict[str, Any] = {}  # by group
        self._committed: dict[tuple[str, str], dict[int, int]] = {}  # by group and topic

    def extents(self, topic: str, *, fresh: bool = False) -> dict[int, Extent]:
        """Return what each partition of a topic has. fresh: ask now, whatever is known."""
        known = self._known.get(topic)
        if known is not None and not fresh and time.monotonic() - known[0] < KNOWN_FOR_S:
            return known[1]
        found = self._described(topic)
        if found.error is not None:
            raise KafkaException(found.error)
        firsts = self._offsets(topic, found.partitions, OffsetSpec.earliest())
        ends = self._offsets(topic, found.partitions, OffsetSpec.latest())
        extents = {number: Extent(firsts[number], max(ends[number], firsts[number])) for number in firsts}
        self._known[topic] = (time.monotonic(), extents)
        return extents

    def new_consumer(self, **options: Any) -> Any:
        """Make a consumer, which is in no group unless `options` name one."""
        return Consumer({**self._options, **_CONSUMER, **options}, logger=log)

    def read(self, topic: str, partition: int, first: int, last: int) -> list[Message]:
        """Read the messages from one offset to another one; those that are gone are left out."""
        with self._lock:
            if self._reader is None:
                self._reader = self.new_consumer(**{"enable.partition.eof": True, "auto.offset.reset": "earliest"})
            self._reader.assign([TopicPartition(topic, partition, first)])
            try:
                return _read(self._reader, first, last)
            finally:
                self._reader.unassign()

    def commit(self, tenant: str | None, topic: str, offsets: Mapping[int, int]) -> None:
        """Commit up to before which offsets all is settled, for people who look there; nothing reads it."""
        if not self._server.group:
            return
        group = self._server.group if tenant is None else f"{self._server.group}.{tenant}"
        with self._lock:
            before = self._committed.get((group, topic), {})
            changed = [TopicPartition(topic, *one) for one in offsets.items() if before.get(one[0]) != one[1]]
            if group not in self._committers:
                self._committers[group] = self.new_consumer(**{"group.id": group, "on_commit": _on_commit})
            committer = self._committers[group]
            committer.poll(0)  # what became of earlier ones
            if changed:
                committer.commit(offsets=changed, asynchronous=True)
                self._committed[group, topic] = {**before, **offsets}

    def _described(self, topic: str) -> Any:
        """Ask for the partitions of a topic. An error says why there is no connection, where that is known."""
        self._last_error = ""
        try:
            return self._admin.list_topics(topic, timeout=TIMEOUT_S).topics[topic]
        except KafkaException as error:
            self._admin.poll(0)  # calls `_on_error`
            if not self._last_error:
                raise
            raise KafkaException(KafkaError(error.args[0].code(), self._last_error)) from error

    def _on_error(self, error: KafkaError) -> None:
        if error.code() != ALL_DOWN:  # which says less than what was reported before it
            self._last_error = error.str()

    def _offsets(self, topic: str, partitions: Sequence[int], which: OffsetSpec) -> dict[int, int]:
        asked = {TopicPartition(topic, number): which for number in partitions}
        answers = self._admin.list_offsets(asked, request_timeout=TIMEOUT_S)
        return {one.partition: answer.result(2 * TIMEOUT_S).offset for one, answer in answers.items()}


def message_of(found: Any) -> Message:
    """Return a message as a row; one without a value is no row."""
    return Message(str(found.offset()), found.value() or b"", max(found.timestamp()[1], 0))


def poll_many(consumer: Any, timeout_s: float) -> list[Any]:
    """Return what has arrived; wait only while nothing has."""
    first = consumer.poll(timeout_s)
    return [] if first is None else [first, *consumer.consume(READ_AT_ONCE, 0)]


@lru_cache(maxsize=16)
def kafka_client(server: NamedStreamServer) -> KafkaClient:
    """Return the client of a cluster: one for the process."""
    return KafkaClient(server)


def _read(consumer: Any, first: int, last: int) -> list[Message]:
    found: list[Message] = []
    until = time.monotonic() + 2 * TIMEOUT_S
    while time.monotonic() < until:
        for one in poll_many(consumer, TIMEOUT_S):
            error = one.error()
            if error is not None and error.code() != AT_END:
                raise KafkaException(error)
            if error is not None or one.offset() > last:
                return found
            until = time.monotonic() + 2 * TIMEOUT_S
            if one.offset() >= first:
                found.append(message_of(one))
            if one.offset() == last:
                return found
    raise KafkaException(KafkaError(TIMED_OUT, "the cluster sends nothing"))


def _on_commit(error: KafkaError | None, _partitions: Sequence[TopicPartition]) -> None:
    if error is not None:
        log.warning("settled offsets were not committed to Kafka: %s", error.str())


_CONSUMER = {
    "group.id": "batchmill-reader",  # librdkafka wants a name; without a subscription, no group is joined
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "fetch.wait.max.ms": 100,
    "queued.max.messages.kbytes": QUEUED_KB,
}


def _options(server: NamedStreamServer) -> dict[str, Any]:
    options: dict[str, Any] = {
        "bootstrap.servers": ",".join(server.addresses),
        "client.id": "batchmill",
        "socket.timeout.ms": int(2 * TIMEOUT_S * 1000),
        "allow.auto.create.topics": False,
        "log_level": 2,  # what is wrong is raised
    }
    password = server.password()
    if password is not None:
        options |= {"sasl.mechanism": server.mechanism, "sasl.username": server.user, "sasl.password": password}
    options["security.protocol"] = ("SASL_" if password else "") + ("SSL" if server.encrypted else "PLAINTEXT")
    if server.ca_file is not None:
        options["ssl.ca.location"] = str(server.ca_file)
    return options
