"""Streams to which rows are sent: added once, limited, read again by offset, deleted when they are settled."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from batchmill.errors import InvalidRows, NotFound, Overloaded, ServiceUnavailable
from batchmill.jobs.streams.offsets import StreamOffsets
from batchmill.jobs.streams.pushing import PushRequest
from batchmill.jobs.streams.source import Push
from batchmill.ledger.streams import PushedRows, PushLimits
from batchmill.settings import CoordinatorSettings
from batchmill.sources.base import InputSplit, NotYet
from batchmill.streams.base import BAD_MESSAGE, LOST_MESSAGE
from batchmill.streams.opening import open_stream
from batchmill.workspace import Workspace, stream_from_table
from batchmill_coordinator.admission.pushes import Pushes
from batchmill_coordinator.inspection.inspector import Inspector
from batchmill_coordinator.inspection.pool import inspector_pool

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill.ledger import Ledger
    from batchmill.sources.base import EndlessSource

MAX_BYTES = 1_000_000


@pytest.fixture
def settings(valkey_url: str, prefix: str, tmp_path: Path) -> CoordinatorSettings:
    return CoordinatorSettings(
        redis_url=valkey_url,
        redis_prefix=prefix,
        blob_root=str(tmp_path),
        tokens=("secret",),
        max_stream_bytes_per_tenant=MAX_BYTES,
        max_streams_per_tenant=2,
    )


@pytest.fixture
def workspace(settings: CoordinatorSettings) -> Workspace:
    return Workspace.open(settings)


@pytest.fixture
def pushes(ledger: Ledger, workspace: Workspace, settings: CoordinatorSettings) -> Pushes:
    return Pushes(ledger, workspace, Inspector(inspector_pool(settings)), settings)


def opened(ledger: Ledger, workspace: Workspace, **options: Any) -> EndlessSource:
    return open_stream(ledger, workspace, "job-1", Push("events", tenant="here", **options))


def rows(first: int, count: int, **more: Any) -> PushRequest:
    return PushRequest(rows=[{"n": first + place, "text": "x" * 100} for place in range(count)], **more)


def test_rows_are_read_as_they_were_sent_whether_they_are_few_or_many(
    ledger: Ledger, workspace: Workspace, pushes: Pushes
) -> None:
    first, second = pushes.push("here", "events", rows(0, 3)), pushes.push("here", "events", rows(3, 500))
    assert (first.known, second.rows) == (False, 500)
    assert len(workspace.blobs.list("streams")) == 1, "only many rows are a blob"
    stream = opened(ledger, workspace)
    splitter = stream.splitter("")
    small, large = splitter.next_split(100, 10**6), splitter.next_split(100, 10**6)
    assert isinstance(small, InputSplit)
    assert isinstance(large, InputSplit)
    assert splitter.next_split(100, 10**6) == NotYet()
    assert stream.read(small.slices + large.slices).column("n").to_pylist() == list(range(503))
    assert (stream.survey("").lag, stream.survey(small.cursor).lag, stream.survey(large.cursor).lag) == (503, 500, 0)


def test_rows_that_a_producer_sends_again_change_nothing(ledger: Ledger, workspace: Workspace, pushes: Pushes) -> None:
    for sequence in (1, 2, 2, 1):
        pushes.push("here", "events", rows(sequence, 500, producer="p", sequence=sequence))
    assert pushes.push("here", "events", rows(9, 1, producer="other", sequence=1)).known is False
    assert [(one.name, one.rows) for one in pushes.streams("here")] == [("events", 1001)]
    assert len(workspace.blobs.list("streams")) == 2, "blobs of known rows are deleted"
    assert opened(ledger, workspace).survey("").lag == 1001


def test_rows_are_kept_whose_answer_was_lost_also_when_the_call_or_the_producer_sends_them_again(
    ledger: Ledger, workspace: Workspace, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = ledger.streams.push

    def add_twice(*arguments: Any) -> str | None:
        add(*arguments)
        return add(*arguments)  # as the connection does that broke before the answer

    def lose_the_answer(*arguments: Any) -> None:
        add(*arguments)
        raise ServiceUnavailable("the connection broke")

    monkeypatch.setattr(ledger.streams, "push", add_twice)
    assert pushes.push("here", "events", rows(0, 500, producer="p", sequence=1)).known is False
    assert pushes.push("here", "events", rows(500, 3)).known is False
    monkeypatch.setattr(ledger.streams, "push", lose_the_answer)
    with pytest.raises(ServiceUnavailable):
        pushes.push("here", "events", rows(503, 497, producer="p", sequence=2))
    monkeypatch.undo()
    assert pushes.push("here", "events", rows(503, 497, producer="p", sequence=2)).known
    stream = opened(ledger, workspace)
    split = stream.splitter("").next_split(10_000, 10**7)
    assert isinstance(split, InputSplit)
    found = stream.read_with_faults(split.slices)
    assert (found.table.column("n").to_pylist(), found.bad) == (list(range(1000)), ())
    assert len(workspace.blobs.list("streams")) == 2


def test_times_finer_than_milliseconds_and_columns_that_are_no_times_are_read(
    ledger: Ledger, workspace: Workspace
) -> None:
    at = datetime(2026, 5, 1, 12, 0, 0, 123_456, UTC)
    table = pa.table({"at": pa.array([at], pa.timestamp("us", "UTC")), "clock": pa.array([at.time()], pa.time64("us"))})
    data = stream_from_table(table)
    ledger.streams.push("here", "events", PushedRows("call-1", 1, len(data), data), PushLimits(1, MAX_BYTES))
    for column, expected in (("at", int(at.timestamp() * 1000)), ("clock", None)):
        split = opened(ledger, workspace, time=column).splitter("").next_split(10, 10**6)
        assert isinstance(split, InputSplit)
        assert StreamOffsets.parse(split.cursor).partitions[""].time_ms == expected


def test_a_tenant_sends_no_more_than_it_may_and_leaves_nothing_behind(workspace: Workspace, pushes: Pushes) -> None:
    pushes.push("here", "events", rows(0, 5000))
    with pytest.raises(Overloaded, match="1,000,000 are allowed"):
        pushes.push("here", "more", rows(0, 8000))
    assert len(workspace.blobs.list("streams")) == 1
    pushes.push("there", "events", rows(0, 5000))
    pushes.push("here", "more", rows(0, 1))
    with pytest.raises(Overloaded, match="2 streams"):
        pushes.push("here", "third", rows(0, 1))
    with pytest.raises(InvalidRows):
        pushes.push("here", "more", PushRequest(rows=[]))
    pushes.delete("here", "events")
    pushes.push("here", "third", rows(0, 1))
    assert [one.name for one in pushes.streams("here")] == ["more", "third"]
    with pytest.raises(NotFound):
        pushes.delete("here", "events")


def test_rows_that_are_sent_while_their_stream_is_deleted_are_there_or_gone_but_not_half(
    ledger: Ledger, workspace: Workspace, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushes.push("here", "events", rows(0, 400))
    add = pushes._ledger.push

    def add_after_deletion(*arguments: Any) -> str | None:
        pushes.delete("here", "events")  # the blob of these rows is stored, their entry is not
        return add(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pushes._ledger, "push", add_after_deletion)
        pushes.push("here", "events", rows(400, 500))
    split = opened(ledger, workspace).splitter("").next_split(1000, 10**6)
    assert isinstance(split, InputSplit)
    found = opened(ledger, workspace).read_with_faults(split.slices)
    assert (found.bad, found.table.column("n").to_pylist()) == ((), list(range(400, 900)))
    assert len(workspace.blobs.list("streams")) == 1


def test_what_is_settled_by_all_jobs_is_deleted_with_its_blob(
    ledger: Ledger, workspace: Workspace, pushes: Pushes
) -> None:
    for first in (0, 500, 1000):
        pushes.push("here", "events", rows(first, 500))
    stream = opened(ledger, workspace, max_rows=500)
    splitter = stream.splitter("")
    offsets = []
    for _ in range(3):
        split = splitter.next_split(500, 10**6)
        assert isinstance(split, InputSplit)
        offsets.append(stream.splitter(split.cursor))
    found = [one.offset for one in ledger.streams.pushed_entries("here", "events", "0-0")]
    stream.settle([{"": found[1]}, {}])
    assert len(workspace.blobs.list("streams")) == 3, "a job has not begun"
    stream.settle([{"": found[1]}, {"": found[0]}])
    assert [one.offset for one in ledger.streams.pushed_entries("here", "events", "0-0")] == found[1:]
    assert len(workspace.blobs.list("streams")) == 2
    stream.settle([{"": found[2]}])
    assert (ledger.streams.names_of("here"), workspace.blobs.list("streams")) == ({"events": 0}, [])


def test_rows_that_are_gone_or_of_another_type_are_bad_rows(
    ledger: Ledger, workspace: Workspace, pushes: Pushes
) -> None:
    pushes.push("here", "events", rows(0, 2))
    pushes.push("here", "events", PushRequest(rows=[{"n": "3"}, {"n": "three"}]))
    stream = opened(ledger, workspace, types={"n": "int64"})
    split = stream.splitter("").next_split(100, 10**6)
    assert isinstance(split, InputSplit)
    ledger.streams.trim_pushed("here", "events", ledger.streams.pushed_entries("here", "events", "0-0", limit=1))
    found = stream.read_with_faults(split.slices)
    assert found.table.column("n").to_pylist() == [None, None, 3, None]
    assert [(one.place, one.error_type) for one in found.bad] == [
        (0, LOST_MESSAGE),
        (1, LOST_MESSAGE),
        (3, BAD_MESSAGE),
    ]
    assert found.table.schema.field("n").type == pa.int64()


def test_rows_whose_types_differ_from_those_before_are_bad_rows(
    ledger: Ledger, workspace: Workspace, pushes: Pushes
) -> None:
    for row in ({"n": 1}, {"n": "two"}, {"n": 3}, {"other": [1]}):
        pushes.push("here", "events", PushRequest(rows=[row]))
    stream = opened(ledger, workspace)
    split = stream.splitter("").next_split(100, 10**6)
    assert isinstance(split, InputSplit)
    found = stream.read_with_faults(split.slices)
    assert found.table.to_pydict() == {"n": [1, None, 3, None], "other": [None, None, None, [1]]}
    assert [(one.place, one.text) for one in found.bad] == [(1, '{"n": "two"}')]


def test_rows_without_columns_are_refused(pushes: Pushes) -> None:
    with pytest.raises(InvalidRows, match="row 0 has no columns"):
        pushes.push("t", "s", PushRequest(rows=[{}, {}]))


def test_columns_with_names_that_are_the_services_own_are_refused(pushes: Pushes) -> None:
    with pytest.raises(InvalidRows, match="'__batchmill_row__'"):
        pushes.push("here", "events", PushRequest(rows=[{"__batchmill_row__": 1}]))


def test_a_time_beyond_all_years_is_none(ledger: Ledger, workspace: Workspace) -> None:
    data = stream_from_table(pa.table({"at": pa.array([2**62, 10], pa.timestamp("s"))}))
    ledger.streams.push("here", "events", PushedRows("call-1", 2, len(data), data), PushLimits(1, MAX_BYTES))
    split = opened(ledger, workspace, time="at").splitter("").next_split(10, 10**6)
    assert isinstance(split, InputSplit)
    assert StreamOffsets.parse(split.cursor).partitions[""].time_ms == 10_000


@pytest.mark.parametrize("sequence", [True, "1", 1.0])
def test_a_sequence_is_an_integer(sequence: object) -> None:
    body = {"rows": [{"n": 1}], "producer": "p", "sequence": sequence}
    with pytest.raises(ValidationError, match="sequence"):
        PushRequest.model_validate(body)
    with pytest.raises(ValidationError, match="sequence"):
        PushRequest.model_validate_json(json.dumps(body))


def test_a_stream_that_was_deleted_and_made_anew_has_a_lag(
    ledger: Ledger, workspace: Workspace, pushes: Pushes
) -> None:
    pushes.push("here", "events", rows(0, 10))
    stream = opened(ledger, workspace)
    split = stream.splitter("").next_split(100, 10**6)
    assert isinstance(split, InputSplit)
    pushes.delete("here", "events")
    assert stream.survey(split.cursor).lag == 0
    pushes.push("here", "events", rows(10, 3))
    assert stream.survey(split.cursor).lag == 3
    following = stream.splitter(split.cursor).next_split(100, 10**6)
    assert isinstance(following, InputSplit)
    assert stream.read(following.slices).column("n").to_pylist() == [10, 11, 12]
    assert (stream.survey(following.cursor).lag, StreamOffsets.parse(following.cursor).rows_lost) == (0, 0)
