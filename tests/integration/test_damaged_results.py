"""Damaged results are never served as rows: the error names them, and the others are still there."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

import batchmill
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROWS = 300
NBYTES = 30_000  # a row: no shard's results ride in the ledger


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "altered": flip,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:4096]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


@dataclass(frozen=True)
class Reader:
    """Reads the pages of a job over HTTP."""

    record: dict[str, str]

    def page(self, job_id: str, cursor: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.record["url"]).netloc, timeout=60)
        headers = {"Authorization": f"Bearer {self.record['token']}", "Accept": "application/x-ndjson"}
        try:
            connection.request("GET", f"/v1/jobs/{job_id}/results?cursor={cursor}", headers=headers)
            answer = connection.getresponse()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def read(self, job_id: str) -> tuple[list[int], list[dict[str, Any]]]:
        """All rows that can be read, by their ids, and the errors in between."""
        ids: list[int] = []
        errors: list[dict[str, Any]] = []
        cursor, at_end = "", False
        while not at_end:
            status, headers, body = self.page(job_id, cursor)
            if status != 200:
                errors.append(json.loads(body)["error"])
                cursor = errors[-1]["details"]["next_cursor"]
                continue
            ids += [json.loads(line)["id"] for line in body.splitlines()]
            cursor, at_end = headers["batchmill-next-cursor"], headers["batchmill-end"] == "true"
        return ids, errors


@pytest.mark.parametrize("damage", DAMAGE)
def test_all_but_the_damaged_part_is_served_and_that_one_named(
    client: batchmill.Client, service_folder: Path, service_record: dict[str, str], damage: str
) -> None:
    rows = [{"id": n} for n in range(ROWS)]
    job = client.submit("wordy", rows=rows, params={"nbytes": NBYTES}).wait(timeout=GRACE_S)
    parts = sorted(path for path in (service_folder / "blobs" / "jobs" / job.id).rglob("part-*"))
    assert len(parts) > 3
    for part in (parts[0], parts[2]):
        DAMAGE[damage](part)
    ids, errors = Reader(service_record).read(job.id)
    lost = {row for error in errors for row in range(error["details"]["first_row"], error["details"]["last_row"] + 1)}
    assert ids == [n for n in range(ROWS) if n not in lost]
    assert [error["details"]["path"].rpartition("/")[2] for error in errors] == [parts[0].name, parts[2].name]
    assert {error["code"] for error in errors} == {"not_found" if damage == "missing" else "damaged_data"}
    kind = batchmill.NotFound if damage == "missing" else batchmill.StorageError
    with pytest.raises(kind, match=rf"the results of the rows 0 to \d+ of {job.id} \(shard 0\) cannot be read"):
        list(job.results())
