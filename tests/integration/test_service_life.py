"""The embedded service and server mode: started, stopped, killed, and refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import batchmill
from batchmill.errors import InvalidOutput, InvalidSettings, InvalidSource, ServiceUnavailable
from batchmill.processes.parent_death import die_with_parent
from support.outputs import manifest_path
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPERATORS = ("mill_operators",)


def test_a_second_service_over_one_folder_is_refused(client: batchmill.Client, service_folder: Path) -> None:
    with (
        pytest.raises(ServiceUnavailable, match=r"already runs in .*--data-dir"),
        batchmill.local(data_dir=service_folder),
    ):
        pass
    assert client.workers()


@pytest.mark.slow
def test_an_operator_module_with_a_typo_is_named_at_the_start() -> None:
    with pytest.raises(ServiceUnavailable, match="mill_operatros"), batchmill.local(operators=("mill_operatros",)):
        pass


@pytest.fixture
def server(tmp_path: Path, valkey_url: str, prefix: str) -> Iterator[batchmill.Client]:
    """A coordinator in server mode, with one root, and a worker to announce the operators."""
    (tmp_path / "root").mkdir()
    env = {
        **os.environ,
        "BATCHMILL_REDIS_URL": valkey_url,
        "BATCHMILL_REDIS_PREFIX": prefix,
        "BATCHMILL_BLOB_ROOT": str(tmp_path / "blobs"),
        "BATCHMILL_ROOTS": str(tmp_path / "root"),
        "BATCHMILL_TOKENS": "first-token,second-token",
    }
    ready = tmp_path / "ready.json"
    commands = [["coordinator", "--port", "0", "--ready-file", str(ready)], ["worker"]]
    processes = [
        subprocess.Popen(die_with_parent([sys.executable, "-m", "batchmill", *command]), env=env)
        for command in commands
    ]
    try:
        until(ready.exists, "the coordinator's start")
        with batchmill.Client(json.loads(ready.read_text())["url"], "second-token") as client:
            until(lambda: bool(client.workers()), "the worker's start")
            yield client
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(GRACE_S)


def test_server_mode_reads_and_writes_only_below_its_roots(server: batchmill.Client, tmp_path: Path) -> None:
    root, secret = tmp_path / "root", tmp_path / "secret.jsonl"
    secret.write_text('{"id": 1}\n')
    (root / "link.jsonl").symlink_to(secret)
    (root / "folder").symlink_to(tmp_path)
    outside = [
        "/etc/passwd",
        "file:///etc/passwd",
        str(secret),
        f"{root}/../secret.jsonl",
        f"{root}/link.jsonl",
        f"{root}/folder/secret.jsonl",
        f"{root}/*.jsonl",
        f"file://{root}/%2e%2e/secret.jsonl",
        "s3://bucket/x.jsonl",
    ]
    for path in outside:
        with pytest.raises(InvalidSource):
            server.submit("echo", source={"path": path, "format": "jsonl"})
    for out in (tmp_path / "out", root / "folder" / "out", "/etc/batchmill-out"):
        with pytest.raises(InvalidOutput):
            server.submit("echo", rows=[{"id": 1}], output=out)
    assert server.jobs() == []
    (root / "mine.jsonl").write_text('{"id": 7}\n')
    job = server.submit("echo", source=root / "mine.jsonl", output=root / "out")
    assert list(job.results()) == [{"id": 7}]
    job.wait(timeout=GRACE_S)
    assert manifest_path(root / "out").exists()


def test_messages_are_json_and_hold_ids_and_token_only(
    server: batchmill.Client, redis_client: object, prefix: str
) -> None:
    from batchmill.broker import queue_of, task_arguments, task_name
    from batchmill.jobs.shard import ShardId, ShardRef
    from batchmill.settings import CoordinatorSettings
    from batchmill_coordinator.scheduling.message_publisher import MessagePublisher

    url = redis_client.connection_pool.connection_kwargs["path"]  # type: ignore[attr-defined]  # a Unix socket
    settings = CoordinatorSettings(redis_url=f"unix://{url}?db=0", redis_prefix=prefix)
    publisher = MessagePublisher(settings)
    ref = ShardRef("job-x", 0, ShardId((17, 1)), 3)
    publisher.publish("echo", queue_of("quiet"), ref)
    publisher.close()
    message = json.loads(redis_client.lindex(f"{prefix}pool.quiet", 0))  # type: ignore[attr-defined]  # a client
    assert message["content-type"] == "application/json"
    assert message["headers"]["task"] == task_name("echo") == "batchmill.echo"
    import base64

    arguments, keywords, _ = json.loads(base64.b64decode(message["body"]))
    assert (arguments, keywords) == (["job-x", 0, "17.1", 3], {}) == (task_arguments(ref), {})
    assert server.workers()


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"BATCHMILL_BLOB_ROOT": "/tmp/x"}, "BATCHMILL_TOKENS is not set"),  # noqa: S108  # never made
        ({"BATCHMILL_TOKENS": "t"}, "BATCHMILL_BLOB_ROOT is not set"),
        ({"BATCHMILL_TOKENS": "t", "BATCHMILL_BLOB_ROTT": "x"}, "Did you mean 'BATCHMILL_BLOB_ROOT'"),
        ({"BATCHMILL_TOKENS": "t", "BATCHMILL_PORT": "many"}, "BATCHMILL_PORT"),
        ({"BATCHMILL_TOKENS": "t", "BATCHMILL_BLOB_ROOT": "b", "BATCHMILL_REDIS_URL": "http://x"}, "no Redis URL"),
    ],
)
def test_a_coordinator_with_wrong_settings_does_not_start_and_says_why(
    env: dict[str, str], said: str, tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "batchmill", "coordinator"],
        env={**os.environ, **env},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=GRACE_S,
        check=False,
    )
    assert ended.returncode == 2
    assert said in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_settings_of_another_service_are_let_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    from batchmill.settings import CoordinatorSettings

    monkeypatch.setenv("BATCHMILL_SLOTS_PER_DEVICE", "2")
    CoordinatorSettings.load()
    monkeypatch.setenv("BATCHMILL_SLOTS_PER_DEVCE", "2")
    with pytest.raises(InvalidSettings, match="BATCHMILL_SLOTS_PER_DEVICE"):
        CoordinatorSettings.load()
