"""Sinks of streams: rows are visible while the job runs, the newest version of each document, with Lance."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import lance
import pytest

import batchmill
from batchmill.ledger.scripting.connection import connect
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import redis


@pytest.fixture
def server(service_record: dict[str, str]) -> Iterator[redis.Redis]:
    """The Redis of the service, in which streams are."""
    with connect(service_record["redis_url"]) as client:
        yield client


def rows_there(to: Path, columns: list[str]) -> list[dict[str, Any]]:
    """The visible rows."""
    try:
        return list(lance.dataset(str(to)).to_table(columns=columns).to_pylist())
    except ValueError:  # no version of the table is there yet
        return []


def stored(to: Path) -> dict[str, str]:
    """The visible rows: document and text. Each document must be there once."""
    found = rows_there(to, ["doc", "text"])
    assert len({row["doc"] for row in found}) == len(found)
    return {row["doc"]: row["text"] for row in found}


def sender(server: redis.Redis, key: str) -> Callable[..., dict[str, str]]:
    """Sends versions of documents; returns what the store must have then, of all that were sent."""
    sent: dict[str, str] = {}

    def send(docs: range, word: str, times: int = 1) -> dict[str, str]:
        for number in range(times):
            for doc in docs:
                text = f"{word} {number} of {doc}"
                row: dict[str, Any] = {"doc": f"d{doc}", "text": text, "embedding": [float(doc), float(len(word)), 1.0]}
                server.xadd(key, {"row": json.dumps(row)})
                sent[row["doc"]] = text
        return dict(sent)

    return send


def test_documents_are_visible_while_the_job_runs_and_their_newest_version_counts(
    client: batchmill.Client, server: redis.Redis, tmp_path: Path
) -> None:
    to, key = tmp_path / "stream_docs.lance", "sink-documents"
    send, sink = sender(server, key), {"to": str(to), "mode": "upsert", "id": "doc"}
    first = send(range(40), "first", 3)
    stream = client.submit("echo", source=batchmill.RedisStream(key, json_field="row"), sink=sink)
    until(lambda: stored(to) == first, "the first version")
    second = send(range(20, 60), "second", 2)
    until(lambda: stored(to) == second, "the second version")
    until(lambda: "stream_docs" in {index.name for index in client.indexes()}, "the index")
    (nearest,) = client.search("stream_docs", vector=[59.0, 6.0, 1.0], k=1)
    assert nearest.row["doc"] == "d59"
    third = send(range(5), "third")
    until(lambda: stream.status().stages["echo"].rows_done == 40 * 3 + 40 * 2 + 5, "the planning of all rows")
    stream.drain()
    stream.wait(60)
    assert stored(to) == third
    source = batchmill.RedisStream(key, json_field="row", start=stream.id)
    following = client.submit("echo", source=source, sink=sink)
    fourth = send(range(3, 8), "fourth")
    until(lambda: stored(to) == fourth, "the version of the job that continues")
    following.drain()
    following.wait(60)
    assert stored(to) == fourth


def test_a_document_has_the_rows_of_its_newest_version_and_no_others(
    client: batchmill.Client, server: redis.Redis, tmp_path: Path
) -> None:
    to, key, counts = tmp_path / "stream_pieces.lance", "sink-pieces", {f"d{doc}": doc % 5 + 1 for doc in range(50)}
    sink = {"to": str(to), "mode": "upsert", "id": "doc"}
    stages = [batchmill.Stage("pieces"), batchmill.Stage("echo")]
    stream = client.submit(source=batchmill.RedisStream(key, json_field="row", max_rows=7), stages=stages, sink=sink)
    for count in (9, 3, None):
        for doc, own in counts.items():
            server.xadd(key, {"row": json.dumps({"doc": doc, "count": count or own})})

    def found() -> dict[str, list[int]]:
        pieces: dict[str, list[int]] = {}
        for row in rows_there(to, ["doc", "piece"]):
            pieces.setdefault(row["doc"], []).append(row["piece"])
        return {doc: sorted(numbers) for doc, numbers in pieces.items()}

    until(lambda: found() == {doc: list(range(count)) for doc, count in counts.items()}, "the newest version")
    stream.drain()
    stream.wait(60)
    assert found() == {doc: list(range(count)) for doc, count in counts.items()}
