"""Jobs over streams, from the entry to the result, in a running service."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest

import batchmill
from batchmill.errors import InvalidRequest
from batchmill.ledger.scripting.connection import connect
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

_numbers = itertools.count()


@pytest.fixture
def server(service_record: dict[str, str]) -> Iterator[redis.Redis]:
    """The Redis of the service, in which streams are."""
    with connect(service_record["redis_url"]) as client:
        yield client


@pytest.fixture
def key() -> str:
    """The name of a stream that no other test has."""
    return f"events-{next(_numbers)}"


def texts(found: list[dict[str, Any]]) -> list[Any]:
    return [row["text"] for row in found]


def rows_now(stream: batchmill.Job, count: int) -> list[dict[str, Any]]:
    """The results, once there are that many."""
    until(lambda: stream.status().rows_done >= count, f"{count} rows with results")
    return list(stream.results(follow=False))


def test_rows_of_a_redis_stream_have_results_in_their_order_until_the_job_is_drained(
    client: batchmill.Client, server: redis.Redis, key: str
) -> None:
    stages = [batchmill.Stage("shout", name="one"), batchmill.Stage("shout", name="two", mark="?")]
    stream = client.submit(source=batchmill.RedisStream(key), stages=stages)
    sent: list[str] = []
    for count in (1, 20, 100):
        for _ in range(count):
            sent.append(f"row {len(sent)}")
            server.xadd(key, {"text": sent[-1]})
        assert texts(rows_now(stream, len(sent))) == sent
    status = stream.status()
    assert (status.rows_total, status.rows_done, status.state) == (None, len(sent), "running")
    until(lambda: server.xlen(key) == 0, "the deletion of what is settled")
    until(lambda: stream.lag() == 0, "the measurement")
    assert stream.watermark() is not None
    stream.drain()
    stream.wait(60)
    server.xadd(key, {"text": "later"})
    assert texts(list(stream.results())) == sent
    following = client.submit("shout", source={"kind": "redis", "stream": key, "start": stream.id})
    assert texts(rows_now(following, 1)) == ["later"]
    following.cancel()


def test_a_message_that_is_no_row_is_a_dead_letter_that_can_be_replayed(
    client: batchmill.Client, server: redis.Redis, key: str
) -> None:
    stream = client.submit("shout", source=batchmill.RedisStream(key, json_field="row"))
    for row in ('{"text": "good"}', "{bad", '{"other": 1}', '{"text": "also good"}'):
        server.xadd(key, {"row": row})
    until(lambda: stream.status().rows_done + stream.status().rows_dead == 4, "the end of all rows")
    stream.drain()
    stream.wait(60)
    assert texts(list(stream.results())) == ["good", "also good"]
    dead = {letter.index: letter.error_type for letter in stream.dead_letters()}
    assert dead == {1: "BadMessage", 2: "MissingValue"}
    with pytest.raises(InvalidRequest, match="not among the dead letters"):  # it has no values without an edit
        stream.replay([1])
    stream.replay([2], edits={2: {"text": "repaired"}}).wait(60)
    assert texts(list(stream.results())) == ["good", "repaired", "also good"]


def test_rows_that_are_pushed_have_results_once(client: batchmill.Client, key: str) -> None:
    stream = client.submit("shout", source=batchmill.Push(key))
    for sequence, known in ((1, False), (2, False), (2, True)):
        rows = [{"text": f"{sequence} {place}"} for place in range(300)]
        (pushed,) = client.push(key, rows, producer="test", sequence=sequence)
        assert pushed.known is known
    assert texts(rows_now(stream, 600)) == [f"{sequence} {place}" for sequence in (1, 2) for place in range(300)]
    stream.drain()
    stream.wait(60)


def test_files_of_a_watched_folder_have_results_as_they_appear(client: batchmill.Client, tmp_path: Path) -> None:
    stream = client.submit("shout", source=batchmill.Folder(str(tmp_path), ready_after_s=0, marker=".done"))
    (tmp_path / "a.jsonl").write_text('{"text": "first"}\n{broken\n{"text": "second"}\n')
    (tmp_path / "a.jsonl.done").touch()
    until(lambda: stream.status().rows_dead == 1, "the end of the first file")
    (tmp_path / "b.csv").write_text("text\nthird\n")
    (tmp_path / "b.csv.done").touch()
    assert texts(rows_now(stream, 3)) == ["first", "second", "third"]
    stream.drain()
    stream.wait(60)
    assert [letter.error_type for letter in stream.dead_letters()] == ["BadLine"]


def test_a_paused_stream_continues_where_it_was(client: batchmill.Client, server: redis.Redis, key: str) -> None:
    stream = client.submit("shout", source=batchmill.RedisStream(key))
    server.xadd(key, {"text": "before"})
    assert texts(rows_now(stream, 1)) == ["before"]
    stream.pause()
    server.xadd(key, {"text": "meanwhile"})
    until(lambda: stream.lag() == 1, "the measurement")
    stream.resume()
    assert texts(rows_now(stream, 2)) == ["before", "meanwhile"]
    stream.cancel()


def test_an_output_gets_files_while_the_job_runs_and_the_next_job_adds_to_it(
    client: batchmill.Client, server: redis.Redis, key: str, tmp_path: Path
) -> None:
    output: dict[str, Any] = {"path": str(tmp_path / "out"), "format": "jsonl", "roll_s": 1}

    def rows_there() -> list[str]:
        lines = (line for file in sorted((tmp_path / "out").iterdir()) for line in file.read_text().splitlines())
        return [json.loads(line)["text"] for line in lines]

    stream = client.submit("shout", source=batchmill.RedisStream(key, json_field="row"), output=output)
    sent: list[str] = []
    for count in (1, 30, 60):
        for number in range(count):
            sent.append(f"{count} {number}")
            server.xadd(key, {"row": json.dumps({"text": sent[-1]})})
        until(lambda: rows_there() == sent, "the files")
    server.xadd(key, {"row": "{bad"})
    until(lambda: stream.status().rows_dead == 1, "the bad row")  # alone in its shard: no other row has its columns
    server.xadd(key, {"row": '{"text": "last"}'})
    until(lambda: rows_there() == [*sent, "last"], "the last row")
    stream.drain()
    stream.wait(60)
    assert rows_there() == [*sent, "last"]
    about = stream.status().stream
    assert about is not None
    assert about.rows_rolled == len(sent) + 1
    stream.replay(edits={len(sent): {"text": "repaired"}}).wait(60)
    assert rows_there() == [*sent, "last", "repaired"]
    server.xadd(key, {"row": '{"text": "later"}'})
    source = batchmill.RedisStream(key, json_field="row", start=stream.id)
    following = client.submit("shout", source=source, output=output)
    until(lambda: "later" in rows_there(), "the file of the next job")
    assert sorted(rows_there()) == sorted([*sent, "last", "repaired", "later"])
    with pytest.raises(batchmill.InvalidOutput, match="not empty"):
        client.submit("shout", rows=[{"text": "a"}], output=output["path"])
    following.cancel()


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ({"kind": "kafkaesque", "stream": "x"}, {}, "there is no kind 'kafkaesque'"),
        ({"kind": "redis", "stream": "batchmill:jobs"}, {}, "one of the service's own keys"),
        ({"kind": "redis", "stream": "x", "start": "job-none"}, {}, "the id of a drained job"),
        ({"kind": "redis", "stream": "x", "offsets": "{}"}, {}, "set by the service"),
        ({"kind": "redis", "stream": "x", "schema": {"a": "int65"}}, {}, "Arrow type"),
        ({"kind": "redis", "stream": "x"}, {"output": "/nowhere/out.parquet"}, "is one file"),
        ({"kind": "redis", "stream": "x"}, {"sink": "/nowhere/out.lance"}, "no end at which its rows could take"),
    ],
)
def test_what_a_stream_cannot_be_is_refused(
    client: batchmill.Client, source: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(batchmill.InvalidRequest, match=message):
        client.submit("shout", source=source, **options)


def test_a_job_that_reads_no_stream_cannot_be_drained(client: batchmill.Client) -> None:
    job = client.submit("shout", rows=[{"text": "a"}])
    with pytest.raises(batchmill.Conflict, match="reads no stream"):
        job.drain()
    with pytest.raises(batchmill.Conflict, match="reads no stream"):
        job.lag()


def test_the_source_of_a_stream_is_shown_as_it_was_given(client: batchmill.Client, key: str) -> None:
    stream = client.submit("shout", source=batchmill.RedisStream(key))
    request = client.job(stream.id).status().request
    assert request is not None
    assert json.loads(request.model_dump_json())["source"]["stream"] == key
    stream.cancel()
