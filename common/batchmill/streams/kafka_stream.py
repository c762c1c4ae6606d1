"""Topics of Kafka: partitions that are read by offset, without a consumer group.

1. The planner's consumer reads ahead of the offsets that it looks behind; what was looked at and not cut stays there.
2. A worker is assigned the first offset of its range, and reads up to the last one.
3. Offsets are the positions of rows. Markers of transactions, and messages that were compacted away, have some, too: so
   the lag may be too large. Only messages before the first offset that is left count as lost.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from batchmill.errors import StreamUnavailable
from batchmill.jobs.job import DEFAULT_TENANT
from batchmill.streams.base import Fetched, Head, Message, StreamReader, begun_anew
from batchmill.streams.kafka_client import NO_OFFSET, message_of, poll_many
from batchmill.streams.messages import event_time_ms, rows_of, with_lost

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from batchmill.jobs.streams.source import Kafka
    from batchmill.sources.base import RowsRead
    from batchmill.streams.kafka_client import KafkaClient

MAX_AHEAD_BYTES = 32 * 1024 * 1024
"""Of messages of all partitions that are read ahead for a job."""
MESSAGE_BYTES = 256
"""What a message takes besides its content."""
POLL_S = 0.05


class KafkaReader(StreamReader):
    """Reads one topic. types: given types of columns."""

    def __init__(self, client: KafkaClient, spec: Kafka, types: Mapping[str, pa.DataType]) -> None:
        self._client = client
        self._spec = spec
        self._types = types
        self._ahead = _ReadAhead(client, spec)

    def partitions(self) -> Sequence[str]:
        """See `StreamReader`."""
        with source_errors(self._spec):
            return [str(number) for number in sorted(self._client.extents(self._spec.topic))]

    def head(self, partition: str, *, at_end: bool) -> Head:
        """See `StreamReader`."""
        with source_errors(self._spec):
            extent = self._client.extents(self._spec.topic, fresh=at_end)[int(partition)]
        following = extent.end if at_end else extent.first
        return Head(str(following - 1), following)

    def fetch(self, partition: str, after: Head, max_rows: int, max_bytes: int) -> Fetched | None:
        """See `StreamReader`."""
        found: list[Message] = []
        with source_errors(self._spec):
            for one in self._ahead.look(int(partition), int(after.offset), max_rows):
                if max_bytes <= 0:
                    break
                found.append(one)
                max_bytes -= one.nbytes
            if not found:
                return None
            lost = self._lost(int(partition), int(after.offset), int(found[0].offset))
        times = [at for one in found if (at := event_time_ms(one, self._spec.time)) is not None]
        nbytes = sum(one.nbytes for one in found)
        last = found[-1].offset
        return Fetched(last, len(found), nbytes, int(last) + 1, max(times, default=None), lost)

    def read(self, partition: str, after: str, last: str, rows: int) -> RowsRead:
        """See `StreamReader`."""
        with source_errors(self._spec):
            found = self._client.read(self._spec.topic, int(partition), int(after) + 1, int(last))
        title = f"{self._spec.title}, partition {partition}"
        return with_lost(rows_of(found, self._types, title), rows - len(found), title)

    def lag(self, partition: str, after: Head) -> int:
        """See `StreamReader`."""
        with source_errors(self._spec):
            extent = self._client.extents(self._spec.topic)[int(partition)]
        return max(extent.end - max(int(after.offset) + 1, extent.first), 0)

    def wait(self, offsets: Mapping[str, str], timeout_s: float) -> bool:
        """See `StreamReader`."""
        with source_errors(self._spec):
            return self._ahead.wait({int(name): int(offset) for name, offset in offsets.items()}, timeout_s)

    def settle(self, settled: Sequence[Mapping[str, str]]) -> None:
        """Commit what all jobs have settled, to show it; partitions that one of them has not begun are left out."""
        begun = set.intersection(*(set(one) for one in settled))
        offsets = {int(name): min(int(one[name]) for one in settled) + 1 for name in begun}
        tenant = None if self._spec.tenant in (None, DEFAULT_TENANT) else self._spec.tenant
        with source_errors(self._spec):
            self._client.commit(tenant, self._spec.topic, offsets)

    def _lost(self, partition: int, after: int, first: int) -> int:
        """Return how many messages between an offset and the next message that was read were deleted as too old."""
        if first == after + 1:
            return 0
        extent = self._client.extents(self._spec.topic, fresh=True)[partition]
        return max(min(extent.first, first) - after - 1, 0)


@dataclass(slots=True)
class _Partition:
    """The messages behind an offset, as far as they are read; the consumer continues with those behind them."""

    after: int
    messages: deque[Message] = field(default_factory=deque)
    is_out_of_range: bool = False

    @property
    def last(self) -> int:
        return int(self.messages[-1].offset) if self.messages else self.after


class _ReadAhead:
    """A consumer of a topic, and what it has read and nobody has cut. Thread-safe; connects when it is first used."""

    def __init__(self, client: KafkaClient, spec: Kafka) -> None:
        self._client = client
        self._spec = spec
        self._lock = threading.Lock()
        self._consumer: Any = None
        self._partitions: dict[int, _Partition] = {}
        self._bytes = 0

    def look(self, partition: int, after: int, max_rows: int) -> list[Message]:
        """Return messages behind an offset that have arrived, and keep them."""
        with self._lock:
            self._follow(partition, after)
            if len(self._partitions[partition].messages) < max_rows:
                self._receive(0)
            return list(islice(self._partitions[partition].messages, max_rows))

    def wait(self, offsets: Mapping[int, int], timeout_s: float) -> bool:
        """Wait until there is a message behind one of the offsets; return whether there is."""
        until = time.monotonic() + timeout_s
        while True:
            with self._lock:
                for partition, after in offsets.items():
                    self._follow(partition, after)
                self._receive(min(max(until - time.monotonic(), 0), POLL_S))
                if any(self._partitions[partition].messages for partition in offsets):
                    return True
            if time.monotonic() >= until:
                return False

    def _follow(self, partition: int, after: int) -> None:
        """Continue behind an offset: what is before it is forgotten, and read again if it is asked for."""
        known = self._partitions.get(partition)
        if known is not None and known.is_out_of_range:
            extent = self._client.extents(self._spec.topic, fresh=True)[partition]
            if after + 1 > extent.end:
                raise begun_anew(self._spec.title)
            self._assign(partition, after, max(after + 1, extent.first))
        elif known is not None and known.after <= after <= known.last:
            while known.messages and int(known.messages[0].offset) <= after:
                self._bytes -= known.messages.popleft().nbytes + MESSAGE_BYTES
            known.after = after
        else:
            self._assign(partition, after, after + 1)

    def _assign(self, partition: int, after: int, first: int) -> None:
        if self._consumer is None:
            self._consumer = self._client.new_consumer()
        known = self._partitions.get(partition)
        if known is not None:
            self._consumer.incremental_unassign([TopicPartition(self._spec.topic, partition)])
            self._bytes -= sum(one.nbytes + MESSAGE_BYTES for one in known.messages)
        self._partitions[partition] = _Partition(after)
        self._consumer.incremental_assign([TopicPartition(self._spec.topic, partition, first)])

    def _receive(self, timeout_s: float) -> None:
        while self._bytes < MAX_AHEAD_BYTES:
            found = poll_many(self._consumer, timeout_s)
            if not found:
                return
            timeout_s = 0
            for one in found:
                self._take(one)

    def _take(self, found: Any) -> None:
        error = found.error()
        if error is None:
            message = message_of(found)
            self._partitions[found.partition()].messages.append(message)
            self._bytes += message.nbytes + MESSAGE_BYTES
        elif error.code() in NO_OFFSET:
            self._partitions[found.partition()].is_out_of_range = True
        else:
            raise KafkaException(error)


@contextmanager
def source_errors(spec: Kafka) -> Iterator[None]:
    """Raise Kafka's errors as `StreamUnavailable`: the stream is away, and the same works later."""
    try:
        yield
    except (KafkaException, TimeoutError) as error:
        cause = error.args[0] if error.args else None
        reason = cause.str() if isinstance(cause, KafkaError) else str(error) or "the cluster does not answer"
        raise StreamUnavailable(
            f"{spec.title} cannot be read: {reason}.",
            hint=f"Check that the cluster {spec.server!r} runs, that the topic exists, and that its user may read it.",
        ) from error
    except KeyError as error:
        raise StreamUnavailable(
            f"{spec.title} has no partition {error} any more.", hint="Check whether the topic was made anew."
        ) from error
