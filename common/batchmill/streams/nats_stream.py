"""Streams of NATS JetStream: read by sequence number, with consumers that nobody keeps and that acknowledge nothing.

Sequence numbers are the positions of rows. Messages that were deleted from the middle had some, too: so the lag may be
too large. Only messages before the first that is left count as lost.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from nats.js.api import RetentionPolicy

from batchmill.errors import InvalidSource, StreamUnavailable
from batchmill.streams.base import Fetched, Head, StreamReader, begun_anew
from batchmill.streams.messages import event_time_ms, rows_of, with_lost
from batchmill.streams.nats_client import ERRORS, MAX_CALL_S, read_messages, wait_for_message

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa
    from nats.js import JetStreamContext
    from nats.js.api import StreamInfo

    from batchmill.jobs.streams.source import Nats
    from batchmill.sources.base import RowsRead
    from batchmill.streams.base import Message
    from batchmill.streams.nats_client import NatsClient

PARTITION = ""
"""The only partition of a stream has no name."""
MAX_BYTES = 256 * 1024 * 1024
"""Of what a worker reads of a range, which the planner has cut by its bytes."""


class Extent(NamedTuple):
    """What a stream has: sequence numbers from `first` to before `end`."""

    first: int
    end: int


class NatsReader(StreamReader):
    """Reads one stream. types: given types of columns."""

    def __init__(self, client: NatsClient, spec: Nats, types: Mapping[str, pa.DataType]) -> None:
        self._client = client
        self._spec = spec
        self._types = types

    def partitions(self) -> Sequence[str]:
        """See `StreamReader`."""
        return (PARTITION,)

    def head(self, partition: str, *, at_end: bool) -> Head:  # noqa: ARG002  # there is one
        """See `StreamReader`."""
        extent = self._extent()
        last = (extent.end if at_end else extent.first) - 1
        return Head(str(last), last)

    def fetch(self, partition: str, after: Head, max_rows: int, max_bytes: int) -> Fetched | None:  # noqa: ARG002  # there is one
        """See `StreamReader`."""
        extent, first = self._extent(), int(after.offset) + 1
        if first > extent.end:
            raise begun_anew(self._spec.title)
        if first == extent.end:
            return None
        lost = max(extent.first - first, 0)
        with source_errors(self._spec):
            found = self._read(first, extent.end - 1, max_rows, max_bytes)
        if not found:
            last = extent.first - 1
            return Fetched(str(last), 0, 0, last, None, lost) if lost else None
        times = [at for one in found if (at := event_time_ms(one, self._spec.time)) is not None]
        nbytes, last = sum(one.nbytes for one in found), int(found[-1].offset)
        return Fetched(str(last), len(found), nbytes, last, max(times, default=None), lost)

    def read(self, partition: str, after: str, last: str, rows: int) -> RowsRead:  # noqa: ARG002  # there is one
        """See `StreamReader`."""
        with source_errors(self._spec):
            found = self._read(int(after) + 1, int(last), rows, MAX_BYTES)
        return with_lost(rows_of(found, self._types, self._spec.title), rows - len(found), self._spec.title)

    def lag(self, partition: str, after: Head) -> int:  # noqa: ARG002  # there is one
        """See `StreamReader`."""
        extent = self._extent()
        return max(extent.end - max(int(after.offset) + 1, extent.first), 0)

    def wait(self, offsets: Mapping[str, str], timeout_s: float) -> bool:
        """See `StreamReader`."""
        first = int(offsets[PARTITION]) + 1
        with source_errors(self._spec):
            return self._client.call(
                lambda stream: wait_for_message(stream, self._spec.stream, first, timeout_s), timeout_s + MAX_CALL_S
            )

    def settle(self, settled: Sequence[Mapping[str, str]]) -> None:
        """Delete the messages that no job needs, if the job says so."""
        if self._spec.trim and all(PARTITION in one for one in settled):
            first = min(int(one[PARTITION]) for one in settled) + 1
            if first > self._extent().first:
                with source_errors(self._spec):
                    self._client.call(lambda stream: stream.purge_stream(self._spec.stream, seq=first))

    def _read(self, first: int, last: int, max_rows: int, max_bytes: int) -> list[Message]:
        name, client = self._spec.stream, self._client
        return client.call(
            lambda stream: read_messages(stream, name, first, last, max_rows, max_bytes, client.max_payload)
        )

    def _extent(self) -> Extent:
        with source_errors(self._spec):
            found = self._client.call(self._read_info)
        if found.config.retention not in (None, RetentionPolicy.LIMITS):
            raise InvalidSource(
                f"{self._spec.title} deletes messages once somebody has read them: a job could not read them again.",
                hint="Read a stream with `retention: limits`.",
                field="source.stream",
            )
        first, last = found.state.first_seq, found.state.last_seq
        return Extent(max(first, 1), max(last, first - 1) + 1)

    async def _read_info(self, stream: JetStreamContext) -> StreamInfo:
        return await stream.stream_info(self._spec.stream)


@contextmanager
def source_errors(spec: Nats) -> Iterator[None]:
    """Raise NATS' errors as `StreamUnavailable`: the stream is away, and the same works later."""
    try:
        yield
    except ERRORS as error:
        reason = str(error) or f"the server does not answer ({type(error).__name__})"
        raise StreamUnavailable(
            f"{spec.title} cannot be read: {reason}.",
            hint=f"Check that the server {spec.server!r} runs, that the stream exists, and that its user may read it.",
        ) from error
