"""What topics of Kafka have beside other streams: partitions, committed offsets, and retention that goes by offsets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Producer

from batchmill.errors import InvalidSource
from batchmill.jobs.streams.source import Kafka
from batchmill.settings import CoordinatorSettings
from batchmill.storage.named_stream_servers import NamedStreamServer, NamedStreamServers
from batchmill.streams.base import BAD_MESSAGE, Head
from batchmill.streams.kafka_client import KafkaClient
from batchmill.streams.kafka_stream import KafkaReader
from support.stream_kinds import encoded
from support.stream_reading import JOB, Reading
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from batchmill.ledger import Ledger
    from batchmill.streams.base import Fetched
    from support.stream_servers import KafkaServer


@pytest.fixture
def topic(prefix: str) -> str:
    """The name of a topic that no other test has."""
    return f"topic-{prefix.strip(':')}"


@pytest.fixture
def settings(valkey_url: str, prefix: str, tmp_path: Path) -> CoordinatorSettings:
    return CoordinatorSettings(redis_url=valkey_url, redis_prefix=prefix, blob_root=str(tmp_path), tokens=("secret",))


def servers(server: KafkaServer, **options: Any) -> NamedStreamServers:
    return NamedStreamServers({"kafka": NamedStreamServer(url=server.url, **options)})


def test_all_partitions_are_read_each_in_its_order_and_the_slowest_has_the_watermark(
    ledger: Ledger, settings: CoordinatorSettings, kafka_server: KafkaServer, topic: str
) -> None:
    kafka_server.create(topic, partitions=3)
    for partition in range(3):
        values = [encoded({"p": partition, "n": n, "at": 1000 * partition + n}) for n in range(20)]
        kafka_server.add(topic, values, partition)
    source = Kafka(topic, time="at", max_rows=7)
    reading = Reading(ledger, settings, source, servers=servers(kafka_server))
    reading.plan(60)
    rows = reading.planned_rows()
    for partition in range(3):
        assert [row["n"] for row in rows if row["p"] == partition] == list(range(20))
    now_ms = max(one.at_ms or 0 for one in reading.offsets.partitions.values())
    assert reading.offsets.watermark_ms(now_ms, 30) == 19_000
    kafka_server.add(topic, [encoded({"p": 2, "n": 20, "at": 9000})], 2)
    reading.plan(61)
    later = reading.offsets.partitions["2"].at_ms
    assert later is not None
    assert reading.offsets.watermark_ms(later, 0) == 9_000_000, "the other partitions are idle"


class _GrowingTopic(KafkaReader):
    """A topic of which the partitions but the first are not known at first: Tansu adds none to a topic."""

    known = 1

    def partitions(self) -> Sequence[str]:
        return super().partitions()[: self.known]


def test_a_partition_that_is_added_is_read_from_its_first_row(
    ledger: Ledger,
    settings: CoordinatorSettings,
    kafka_server: KafkaServer,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kafka_server.create(topic, partitions=2)
    kafka_server.add(topic, [encoded({"n": n}) for n in range(3)], 0)
    monkeypatch.setattr("batchmill.streams.kafka_stream.KafkaReader", _GrowingTopic)
    reading = Reading(ledger, settings, Kafka(topic), servers=servers(kafka_server))
    reading.plan(3)
    kafka_server.add(topic, [encoded({"n": n}) for n in range(3, 5)], 1)
    monkeypatch.setattr(_GrowingTopic, "known", 2)
    reading.plan(5)
    assert sorted(row["n"] for row in reading.planned_rows()) == [0, 1, 2, 3, 4]


def test_only_what_is_settled_is_committed_back_and_nothing_is_read_by_it(
    ledger: Ledger, settings: CoordinatorSettings, kafka_server: KafkaServer, topic: str
) -> None:
    kafka_server.create(topic)
    kafka_server.add(topic, [encoded({"n": n}) for n in range(6)])
    reading = Reading(ledger, settings, Kafka(topic, max_rows=2), servers=servers(kafka_server, group=f"g-{topic}"))
    reading.plan(6)
    assert ledger.jobs.read(JOB).first.shards_planned == 3
    reading.keeper.step(reading.epoch)
    reading.settle(1)
    reading.keeper.step(reading.epoch)
    until(lambda: kafka_server.committed(topic, f"g-{topic}") == 0, "the commit of the first offset")
    reading.settle(0)
    reading.keeper.step(reading.epoch)
    until(lambda: kafka_server.committed(topic, f"g-{topic}") == 4, "the commit of what is settled")
    reading.planner = reading.new_planner()
    kafka_server.add(topic, [encoded({"n": 6})])
    reading.plan(7)
    assert [row["n"] for number in (2, 3) for row in reading.read_shard(number).table.to_pylist()] == [4, 5, 6]


def test_a_message_without_a_value_is_a_bad_row(
    ledger: Ledger, settings: CoordinatorSettings, kafka_server: KafkaServer, topic: str
) -> None:
    kafka_server.create(topic)
    kafka_server.add(topic, [encoded({"n": 1}), None])
    reading = Reading(ledger, settings, Kafka(topic), servers=servers(kafka_server))
    reading.plan(2)
    bad = [one for n in range(ledger.jobs.read(JOB).first.shards_planned) for one in reading.read_shard(n).bad]
    assert [one.error_type for one in bad] == [BAD_MESSAGE]


@pytest.fixture
def old_messages_go(topic: str) -> tuple[KafkaClient, Producer]:
    """A cluster inside librdkafka, whose partitions keep 5 MiB: here retention overtakes a reader."""
    producer = Producer({"bootstrap.servers": "unused", "test.mock.num.brokers": 1, "linger.ms": 0, "log_level": 0})
    (broker,) = producer.list_topics(topic, timeout=30).brokers.values()
    return KafkaClient(NamedStreamServer(url=f"kafka://{broker.host}:{broker.port}")), producer


def _produce(producer: Producer, topic: str, count: int, nbytes: int) -> None:
    for n in range(count):
        producer.produce(topic, encoded({"n": n, "text": "x" * nbytes}), partition=0)
        producer.flush(30)


def test_messages_that_retention_deletes_before_they_are_planned_are_counted(
    old_messages_go: tuple[KafkaClient, Producer], topic: str
) -> None:
    client, producer = old_messages_go
    reader = KafkaReader(client, Kafka(topic), {})
    _produce(producer, topic, 1, 100)
    first = _fetched(reader, Head("-1", 0))
    assert (first.last, first.rows, first.lost) == ("0", 1, 0)
    _produce(producer, topic, 12, 900_000)
    start = client.extents(topic, fresh=True)[0].first
    assert start > 1, "the cluster has deleted nothing"
    again = KafkaReader(client, Kafka(topic), {})  # as after a restart: nothing was read ahead
    found = _fetched(again, Head(first.last, first.position))
    assert found.lost == start - 1
    assert found.rows + found.lost <= 12
    gone = again.read("0", "0", str(start), start)
    assert [one.error_type for one in gone.bad] == ["LostMessage"] * (start - 1)


def test_a_topic_that_ends_before_what_was_read_of_it_was_made_anew(
    old_messages_go: tuple[KafkaClient, Producer], topic: str
) -> None:
    client, producer = old_messages_go
    _produce(producer, topic, 2, 10)
    reader = KafkaReader(client, Kafka(topic), {})
    with pytest.raises(InvalidSource, match="deleted and created again"):
        _fetched(reader, Head("500", 501))


def _fetched(reader: KafkaReader, after: Head) -> Fetched:
    found: list[Fetched] = []

    def is_there() -> bool:
        one = reader.fetch("0", after, 100, 10**6)
        found.extend([one] if one else [])
        return one is not None

    until(is_there, "the arrival of messages")
    return found[0]
