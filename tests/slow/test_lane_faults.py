"""Interactive requests whose worker is killed or frozen, or that are too many: one answer or one clear error."""

from __future__ import annotations

import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import openai
import pytest

import batchmill
from support.processes import children_with
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import psutil

SLOT = "batchmill_worker.slot"
MODELS = {"speaker": {"operator": "speaker", "kind": "chat"}}


@contextmanager
def service(folder: Path, workers: int = 1, **settings: object) -> Iterator[batchmill.Client]:
    models = folder / "models.json"
    models.write_text(json.dumps(MODELS))
    chosen = {"MODELS": models, "LEASE_TTL_S": 2, "LEADER_TTL_S": 2} | settings
    with pytest.MonkeyPatch.context() as patch:
        for name, value in chosen.items():
            patch.setenv(f"BATCHMILL_{name}", str(value))
        with batchmill.local(workers=workers, data_dir=folder / "data", operators=["lane_operators"]) as client:
            yield client


@contextmanager
def asking(client: batchmill.Client) -> Iterator[openai.OpenAI]:
    token = client._async._transport.address.token
    with openai.OpenAI(base_url=f"{client.url}/v1", api_key=token, max_retries=0, timeout=GRACE_S) as sdk:
        yield sdk


def slots() -> set[psutil.Process]:
    return set(children_with(SLOT, recursive=True))


def warm(client: batchmill.Client, folder: Path) -> int:
    """Have both operators loaded; the process that has `patient`, which need not be the one of the other."""
    client.call("speaker", [{"messages": [{"role": "user", "content": "warm"}]}], timeout=GRACE_S)
    (row,) = client.call("patient", [{"path": str(folder)}], timeout=GRACE_S)
    return int(row["pid"])


def test_a_request_whose_worker_is_killed_is_answered_by_another_one(tmp_path: Path) -> None:
    gate, begun = tmp_path / "gate", tmp_path / "gate.begun"
    with service(tmp_path) as client, ThreadPoolExecutor(1) as threads:
        warm(client, tmp_path)
        (slot,) = slots()
        answer = threads.submit(client.call, "patient", [{"path": str(gate)}])
        try:
            until(begun.exists, "the first attempt")
            begun.unlink()
            slot.kill()
            until(begun.exists, "the second attempt")
        finally:
            gate.touch()
        (row,) = answer.result(GRACE_S)
        assert row["pid"] != slot.pid


def test_a_request_that_ends_its_second_worker_too_is_an_error(tmp_path: Path) -> None:
    gate, begun = tmp_path / "gate", tmp_path / "gate.begun"
    with service(tmp_path) as client, ThreadPoolExecutor(1) as threads:
        warm(client, tmp_path)
        answer = threads.submit(client.call, "patient", [{"path": str(gate)}])
        for _ in range(2):
            until(begun.exists, "an attempt")
            begun.unlink()
            for slot in slots():
                slot.kill()
        with pytest.raises(batchmill.WorkerLost, match="patient"):
            answer.result(GRACE_S)
        gate.touch()
        assert client.call("patient", [{"path": str(gate)}], timeout=GRACE_S)


def test_a_stream_whose_worker_is_killed_ends_with_an_error_and_is_not_begun_again(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with service(tmp_path) as client, asking(client) as sdk:
        warm(client, tmp_path)
        (slot,) = slots()
        messages: Any = [{"role": "user", "content": f"one {gate} two"}]
        with sdk.chat.completions.create(model="speaker", messages=messages, stream=True) as stream:
            first = next(text for chunk in stream if (text := chunk.choices[0].delta.content))
            slot.kill()
            with pytest.raises(openai.APIError) as caught:
                list(stream)
        assert first == "one"
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["code"] == "worker_lost"
        gate.touch()
        call = [{"messages": [{"role": "user", "content": "again"}]}]
        assert client.call("speaker", call, timeout=GRACE_S)[0]["text"] == "again"


def test_a_request_whose_worker_is_frozen_is_answered_by_another_one_and_once(tmp_path: Path) -> None:
    gate, begun = tmp_path / "gate", tmp_path / "gate.begun"
    with service(tmp_path, workers=2) as client, ThreadPoolExecutor(1) as threads:
        holder = warm(client, tmp_path)
        answer = threads.submit(client.call, "patient", [{"path": str(gate)}])
        until(begun.exists, "the first attempt")
        frozen = next(slot for slot in slots() if slot.pid == holder)
        frozen.send_signal(signal.SIGSTOP)
        try:
            begun.unlink()
            until(begun.exists, "the second attempt")
            gate.touch()
            (row,) = answer.result(GRACE_S)
            assert row["pid"] != frozen.pid
        finally:
            if frozen.is_running():
                frozen.send_signal(signal.SIGCONT)
        assert client.call("patient", [{"path": str(gate)}], timeout=GRACE_S)


def test_requests_beyond_the_limit_are_refused_and_those_that_wait_are_answered(tmp_path: Path) -> None:
    gate, begun = tmp_path / "gate", tmp_path / "gate.begun"
    with service(tmp_path, LANE_MAX_WAITING=2) as client, asking(client) as sdk, ThreadPoolExecutor(8) as threads:
        warm(client, tmp_path)
        answers = [threads.submit(client.call, "patient", [{"path": str(gate)}])]
        until(begun.exists, "the first one")
        refused = threading.Event()

        def call() -> Any:
            try:
                return client.call("patient", [{"path": str(gate)}])
            except batchmill.TooManyRequests:
                refused.set()
                raise

        answers += [threads.submit(call) for _ in range(5)]
        try:
            assert refused.wait(GRACE_S)
            until(lambda: sum(one.done() for one in answers) == 3, "the refusal of those that are too many")
        finally:
            gate.touch()
        outcomes = [one.exception(GRACE_S) for one in answers]
        assert sum(outcome is None for outcome in outcomes) == 3
        errors = [outcome for outcome in outcomes if outcome is not None]
        assert all(isinstance(error, batchmill.TooManyRequests) for error in errors)
        assert errors[0].details["retry_after_s"] >= 1  # type: ignore[attr-defined]  # of the error's own type
        messages: Any = [{"role": "user", "content": "still here"}]
        assert sdk.chat.completions.create(model="speaker", messages=messages).choices[0].finish_reason == "stop"
