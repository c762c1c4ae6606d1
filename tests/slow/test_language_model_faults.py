"""Workers that are killed while a language model answers: no row that was answered is answered again."""

from __future__ import annotations

import re
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import batchmill
from batchmill_worker.slot.attempt.shard_progress import decode_progress
from support.language_models import SMALL
from support.model_service import chat_reply, error_reply, model_service
from support.processes import children_with
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    import pytest

    from support.model_service import Reply

SLOT = "batchmill_worker.slot"
ROWS = 24
FREE = 17
"""Rows that are answered before the worker is killed."""


def test_no_answered_row_is_asked_again_when_its_worker_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    asked: Counter[str] = Counter()
    answered: set[str] = set()

    def answer(body: dict[str, Any], _: int) -> Reply:
        text = body["messages"][0]["content"]
        asked[text] += 1
        if int(text.split()[1]) >= FREE:
            gate.wait()
        answered.add(text)
        return chat_reply(f"{text} {body['seed']}")

    with model_service(answer) as service:
        endpoints = tmp_path / "endpoints.toml"
        endpoints.write_text(f'[test]\nurl = "{service.url}"\n')
        monkeypatch.setenv("BATCHMILL_ENDPOINTS", str(endpoints))
        monkeypatch.setenv("BATCHMILL_LEASE_TTL_S", "2")
        with batchmill.local(workers=1, data_dir=tmp_path / "data") as client:
            try:
                job = client.submit(
                    "chat",
                    rows=[{"id": number} for number in range(ROWS)],
                    params={"model": "m", "endpoint": "test", "prompt": "row {id}"},
                )
                until(lambda: len(answered) == FREE and rows_saved(tmp_path) == FREE, "the answers of free rows")
                (slot,) = children_with(SLOT, recursive=True)
                slot.kill()
                until(lambda: bool(set(children_with(SLOT, recursive=True)) - {slot}), "another process")
            finally:
                gate.set()
            job.wait(timeout=GRACE_S)
            results = list(job.results())
            status = job.status()

    assert [row["id"] for row in results] == list(range(ROWS))
    assert [row["text"] for row in results] == [f"row {row['id']} {row['seed']}" for row in results]
    assert {number: asked[f"row {number}"] for number in range(FREE)} == dict.fromkeys(range(FREE), 1)
    assert (status.rows_done, status.rows_dead) == (ROWS, 0)


def test_an_answer_that_does_not_fit_is_asked_for_again_with_another_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: dict[str, list[int]] = {}

    def answer(body: dict[str, Any], _: int) -> Reply:
        text = body["messages"][0]["content"]
        tries = seeds.setdefault(text, [])
        tries.append(body["seed"])
        return chat_reply("1" if len(tries) == 2 or text != "row 3" else "none")

    with model_service(answer) as service:
        endpoints = tmp_path / "endpoints.toml"
        endpoints.write_text(f'[test]\nurl = "{service.url}"\n')
        monkeypatch.setenv("BATCHMILL_ENDPOINTS", str(endpoints))
        params = {"model": "m", "endpoint": "test", "prompt": "row {id}", "schema": {"type": "integer"}}
        rows = [{"id": number} for number in range(6)]
        soon = batchmill.RetryPolicy(backoff_s=0.1)
        with batchmill.local(workers=1, data_dir=tmp_path / "data") as client:
            job = client.submit("chat", rows=rows, params=params | {"temperature": 0.7}, retry=soon)
            assert [row["text"] for row in job.wait(timeout=GRACE_S).results()] == ["1"] * 6
            assert len(seeds["row 3"]) == len(set(seeds["row 3"])) == 2
            assert all(len(seeds[f"row {number}"]) == 1 for number in (0, 1, 2, 4, 5))
            seeds.clear()
            never = batchmill.RetryPolicy(never_on=["InvalidOutput"])
            job = client.submit("chat", rows=rows, params=params | {"temperature": 0.7}, retry=never)
            assert job.wait(timeout=GRACE_S).status().rows_dead == 1
            assert [letter.error_type for letter in job.dead_letters()] == ["InvalidOutput"]


def rows_saved(folder: Path) -> int:
    """The rows in the only checkpoint, or none."""
    found = checkpoint_of(folder)
    return 0 if found is None else int(found.num_rows)


def answers_begun(folder: Path) -> list[int]:
    """How many tokens the begun answers in the only checkpoint have."""
    found = checkpoint_of(folder)
    return [] if found is None else [answer.tokens for answer in decode_progress(found).begun.values()]


def checkpoint_of(folder: Path) -> pa.Table | None:
    from batchmill.storage.blobs import BlobStore
    from batchmill.storage.locations import UNRESTRICTED, Locations

    blobs = BlobStore.open(str(folder / "data" / "blobs"), Locations(UNRESTRICTED))
    names = [name for name in blobs.list("jobs") if "/checkpoints/" in name]
    return blobs.read_table(names[0]) if names else None


def test_a_killed_job_ends_with_the_results_of_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHMILL_LEASE_TTL_S", "2")
    params = SMALL | {"prompt": "Tell me about number {id}.", "max_tokens": 12, "temperature": 0.7, "seed": 11}
    rows = [{"id": number} for number in range(ROWS)]
    with batchmill.local(workers=1, data_dir=tmp_path / "data") as client:
        calm = client.submit("chat", rows=rows, params=params).wait(timeout=GRACE_S)
        expected = list(calm.results())
        job = client.submit("chat", rows=rows, params=params)
        until(lambda: rows_saved(tmp_path) >= 4, "some answers")
        (slot,) = children_with(SLOT, recursive=True)
        slot.kill()
        job.wait(timeout=GRACE_S)
        results = list(job.results())

    assert [row["id"] for row in results] == list(range(ROWS))
    assert [row["seed"] for row in results] == [row["seed"] for row in expected]
    same = sum(one["text"] == other["text"] for one, other in zip(results, expected, strict=True))
    assert same >= ROWS - 3  # rounding depends on what is computed together


def test_begun_answers_continue_after_a_kill_and_are_those_of_an_undisturbed_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHMILL_LEASE_TTL_S", "2")
    params = SMALL | {"prompt": "Tell a long story about number {id}.", "max_tokens": 120}
    rows = [{"id": number} for number in range(3)]
    with batchmill.local(workers=1, data_dir=tmp_path / "data") as client:
        expected = list(client.submit("chat", rows=rows, params=params).wait(timeout=GRACE_S).results())
        job = client.submit("chat", rows=rows, params=params)
        until(lambda: len(answers_begun(tmp_path)) == len(rows), "beginnings of all answers")
        begun = answers_begun(tmp_path)
        (slot,) = children_with(SLOT, recursive=True)
        slot.kill()
        results = list(job.wait(timeout=GRACE_S).results())
        log = (tmp_path / "data" / "logs" / "worker.log").read_text()

    found = re.findall(r"continued answers: rows=(\d+) tokens=(\d+)", log)
    assert len(found) == 1
    assert int(found[0][0]) == len(rows)
    assert int(found[0][1]) >= sum(begun)
    columns = ("id", "seed", "finish_reason", "prompt_tokens")
    assert [[row[name] for name in columns] for row in results] == [[row[name] for name in columns] for row in expected]
    same = sum(one["text"] == other["text"] for one, other in zip(results, expected, strict=True))
    assert same >= len(rows) - 1  # rounding depends on what is computed together


def test_a_quota_that_is_used_up_pauses_the_job_which_then_asks_for_the_other_rows_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [10]
    answered: Counter[str] = Counter()
    lock = threading.Lock()

    def answer(body: dict[str, Any], _: int) -> Reply:
        with lock:
            if not left[0]:
                return error_reply(429, "insufficient_quota", "buy more")
            left[0] -= 1
            text = body["messages"][0]["content"]
            answered[text] += 1
            return chat_reply(text)

    with model_service(answer) as service:
        endpoints = tmp_path / "endpoints.toml"
        endpoints.write_text(f'[test]\nurl = "{service.url}"\n')
        monkeypatch.setenv("BATCHMILL_ENDPOINTS", str(endpoints))
        with batchmill.local(workers=1, data_dir=tmp_path / "data") as client:
            job = client.submit(
                "chat",
                rows=[{"id": number} for number in range(ROWS)],
                params={"model": "m", "endpoint": "test", "prompt": "row {id}"},
                retry=batchmill.RetryPolicy(max_attempts=1),
            )
            until(lambda: job.status().state == "paused", "the pause")
            note = job.status().note
            assert note is not None
            assert "quota at the endpoint is used up: buy more" in note
            assert note.endswith(f"Then `batchmill resume {job.id}`.")

            left[0] = ROWS
            job.resume()
            job.wait(timeout=GRACE_S)

            assert (job.status().rows_done, job.status().rows_dead, job.status().note) == (ROWS, 0, None)
            texts = [row["text"] for row in job.results()]
    assert sorted(texts) == sorted(f"row {number}" for number in range(ROWS))
    assert sum(answered.values()) <= ROWS + 10
