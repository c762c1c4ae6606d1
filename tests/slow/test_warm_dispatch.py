"""Shards go to the worker that has their model, with real workers whose memory holds one model each."""

from __future__ import annotations

import random
import re
from collections import Counter
from typing import TYPE_CHECKING

import redis

import batchmill
from support.processes import children_with, command_line
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

OPERATORS = ("mill_operators",)


def valkey_socket(data: Path) -> str:
    """Where the service over this folder has its Valkey."""
    (up,) = children_with(f"{data} ")
    (server,) = children_with("valkey-server", up.pid)
    return next(part for part in re.split("[ :]", command_line(server)) if part.endswith("valkey.sock"))


def test_a_mixed_load_of_forty_jobs_loads_each_of_two_models_at_most_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "loads"
    monkeypatch.setenv("BATCHMILL_MODEL_MEMORY_MB", "100")
    models = list("ab" * 20)
    random.Random(4).shuffle(models)

    with batchmill.local(workers=2, data_dir=tmp_path / "service", operators=OPERATORS) as client:

        def submit(model: str) -> batchmill.Job:
            return client.submit("heavy", rows=[{"id": n} for n in range(5)], params={"model": model, "log": str(log)})

        for model, job in [(model, submit(model)) for model in models]:
            assert [row["model"] for row in job.results()] == [model] * 5
        loads = Counter(line.split()[0] for line in log.read_text().splitlines())
        assert set(loads) == {"a", "b"}
        assert max(loads.values()) <= 2

        # Its connections are cut: the queue of what is loaded is consumed again, and nothing is loaded anew.
        latest = log.read_text().splitlines()[-1].split()[0]
        until(lambda: all(worker.models for worker in client.workers()), "both announce what they have")
        with redis.Redis(unix_socket_path=valkey_socket(tmp_path / "service")) as broker:
            broker.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        for _ in range(4):
            submit(latest).wait(timeout=GRACE_S)
        assert Counter(line.split()[0] for line in log.read_text().splitlines()) == loads
