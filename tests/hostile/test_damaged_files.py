"""Damaged, encrypted and mutated files: each ends in right rows or a clear refusal, and harms nothing else."""

from __future__ import annotations

import base64
import os
import random
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.processes import children_with
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    import psutil

    from support.attack import Answer, Mill

DATA = Path(__file__).parent.parent / "data" / "hostile"
REFUSED = ["encrypted_column.parquet", "bad_path_in_schema.parquet", "latin1_column_name.parquet"]
MODULE = "batchmill_coordinator.inspection"
SEED = 20_261_126
MUTANTS = 60
TABLE = pa.table({"id": list(range(200)), "text": [f"row {number}" for number in range(200)]})


def pid_of(mill: Mill) -> int:
    return mill.cluster.coordinators["a"].pid


def inspectors(mill: Mill) -> list[psutil.Process]:
    """The processes that read what users send."""
    return children_with(MODULE, pid_of(mill))


@pytest.mark.parametrize("operator", ["echo", "shout"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_decoded_is_refused_at_submit_by_name(mill: Mill, name: str, operator: str) -> None:
    before = pid_of(mill)
    with mill.healthy():
        answer = mill.call("POST", "/v1/jobs", {"operator": operator, "source": {"path": str(DATA / name)}})
    assert (answer.status, answer.code) == (422, "invalid_source")
    assert name in answer.json["error"]["message"]
    assert pid_of(mill) == before
    assert mill.cluster.coordinators["a"].process.poll() is None


def test_text_that_is_not_utf_8_fails_its_job_naming_file_column_and_row(mill: Mill) -> None:
    answer = mill.submit(source={"path": str(DATA / "invalid_utf8.parquet")})
    assert answer.status == 201
    job = mill.cluster.clients["a"].job(answer.json["id"])
    until(lambda: job.status().state.is_final, "the job's end")
    error = job.status().error
    assert error is not None
    assert "invalid_utf8.parquet" in error.message
    assert "row 1 (the first one is 0): it has no valid value in column 's'" in error.message


def test_a_file_that_breaks_after_submit_fails_its_job_alone(mill: Mill, tmp_path: Path) -> None:
    path = tmp_path / "later.parquet"
    pq.write_table(TABLE, path)
    info = path.stat()
    answer = mill.call(
        "POST", "/v1/jobs", {"operator": "echo", "pool": "nobody", "source": {"path": str(path)}, "name": "later"}
    )
    assert answer.status == 201
    damaged = DATA / "encrypted_column.parquet"
    path.write_bytes(damaged.read_bytes().ljust(info.st_size, b"\0")[: info.st_size])
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    mill.require_right_job()
    assert mill.call("POST", f"/v1/jobs/{answer.json['id']}/cancel").status == 200


def test_an_inspector_that_is_killed_is_replaced_and_harms_no_request(mill: Mill, tmp_path: Path) -> None:
    path = tmp_path / "good.parquet"
    pq.write_table(TABLE, path)
    for _ in range(3):
        for process in inspectors(mill):
            process.send_signal(signal.SIGKILL)
        answer = mill.submit(source={"path": str(path)})
        assert answer.status == 201
        job = mill.cluster.clients["a"].job(answer.json["id"])
        job.wait(timeout=90)
        assert job.to_table().equals(TABLE)
    until(lambda: len(inspectors(mill)) >= 2, "new inspectors")


def test_an_inspector_that_hangs_is_ended_and_the_file_named(own_mill: Mill, tmp_path: Path) -> None:
    own_mill.cluster.start_coordinator("b", INSPECTION_TIMEOUT_S=10)
    mill = type(own_mill)(own_mill.cluster)
    mill.port = int(own_mill.cluster.url("b").rpartition(":")[2])
    target = tmp_path / "slow.jsonl"
    target.write_text('{"id": 1}\n' * 10)
    assert mill.submit(source={"path": str(target)}).status == 201  # its inspectors are ready
    for process in children_with(MODULE, own_mill.cluster.coordinators["b"].pid):
        process.suspend()
    with mill.healthy():
        answer = mill.submit(source={"path": str(target)})
    assert (answer.status, answer.code) == (422, "invalid_source")
    assert "took longer than 10 s" in answer.json["error"]["message"]
    until(lambda: mill.submit(source={"path": str(target)}).status == 201, "the replacement of all that hang")


def mutants(make: Callable[[Path], None], folder: Path, suffix: str) -> list[Path]:
    """Copies of one file, each with 1 to 5 bytes changed, most of them in its metadata."""
    rng = random.Random(f"{SEED}{suffix}")
    whole = folder / f"whole{suffix}"
    make(whole)
    data = whole.read_bytes()
    found = []
    for number in range(MUTANTS):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 5)):
            place = rng.randrange(len(data)) if number % 3 == 0 else len(data) - 1 - rng.randrange(len(data) // 4)
            changed[place] ^= rng.randint(1, 255)
        path = folder / f"mutant-{number}{suffix}"
        path.write_bytes(changed)
        found.append(path)
    return found


def write_parquet(path: Path) -> None:
    pq.write_table(TABLE, path, row_group_size=50)


def write_arrow(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=50)


@pytest.mark.parametrize(("make", "suffix"), [(write_parquet, ".parquet"), (write_arrow, ".arrow")])
def test_mutated_files_end_in_rows_or_a_clear_refusal(
    mill: Mill, tmp_path: Path, make: Callable[[Path], None], suffix: str
) -> None:
    before, accepted = pid_of(mill), []
    with mill.healthy():
        for path in mutants(make, tmp_path, suffix):
            answer = mill.call("POST", "/v1/jobs", {"operator": "shout", "source": {"path": str(path)}})
            require_clear(answer, path.name)
            accepted += [answer.json["id"]] if answer.status == 201 else []
        for job_id in accepted:
            job = mill.cluster.clients["a"].job(job_id)
            until(lambda job=job: job.status().state.is_final, f"the end of job {job_id}")  # type: ignore[misc]
            status = job.status()
            assert status.state == "completed" or (status.error is not None and "mutant-" in status.error.message)
    assert pid_of(mill) == before
    assert mill.cluster.coordinators["a"].process.poll() is None


def require_clear(answer: Answer, name: str) -> None:
    if answer.status != 201:
        assert answer.status == 422, answer.body
        assert answer.code in ("invalid_source", "invalid_rows")
        assert name in answer.json["error"]["message"] or answer.code == "invalid_rows"


def test_mutated_rows_of_a_request_are_rows_or_refused(mill: Mill) -> None:
    rng = random.Random(SEED)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, TABLE.schema) as writer:
        writer.write_table(TABLE.slice(0, 20))
    data = sink.getvalue().to_pybytes()
    before = pid_of(mill)
    with mill.healthy():
        for _ in range(MUTANTS):
            changed = bytearray(data)
            for _ in range(rng.randint(1, 5)):
                changed[rng.randrange(len(data))] ^= rng.randint(1, 255)
            answer = mill.submit(rows_arrow=base64.b64encode(changed).decode())
            assert answer.status in (201, 413, 422), answer.body
    assert pid_of(mill) == before


def test_results_that_are_cut_short_end_a_request_and_not_the_process(mill: Mill) -> None:
    job = mill.cluster.clients["a"].submit("echo", rows=[{"id": n, "text": "x" * 1000} for n in range(5_000)])
    job.wait(timeout=90)
    parts = sorted(mill.cluster.blobs.glob(f"jobs/{job.id}/results/**/*part*"))
    assert parts
    for part in parts:
        os.truncate(part, min(part.stat().st_size, 4096))
    answer = mill.call("GET", f"/v1/jobs/{job.id}/results")
    assert answer.status in (404, 507)
    assert mill.call("DELETE", f"/v1/jobs/{job.id}").status == 204
    shutil.rmtree(mill.cluster.blobs / "jobs" / job.id, ignore_errors=True)
