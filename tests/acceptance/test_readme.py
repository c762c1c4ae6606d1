"""Run the README's own commands, unchanged."""

from __future__ import annotations

import json
import re
import socket
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

import batchmill
from support.outputs import manifest_path
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import redis

    from support.sandbox import Block, Sandbox

README = "README.md"
HTTP = "docs/http-api.md"
MACHINES = "docs/how-to/several-machines.md"
RUN_HERE = {"first.py", "up", "tour", "sentiment.py", "own.py", "coordinator", "worker", "remote"}
DOCS = [
    {"id": 1, "text": "The cat sat on the mat."},
    {"id": 2, "text": "Interest rates rose again."},
    {"id": 3, "text": "A dog barked at the cat."},
]


def test_every_block_with_a_name_is_run_here(blocks: Callable[[str], list[Block]]) -> None:
    assert {block.run for block in blocks(README)} - {None} == RUN_HERE


def test_the_make_targets_that_are_named_exist(root: Path) -> None:
    named = set(re.findall(r"\bmake ([a-z]+)\b", (root / README).read_text() + (root / "CONTRIBUTING.md").read_text()))
    targets = set(re.findall(r"^([a-z]+):.*##", (root / "Makefile").read_text(), re.MULTILINE))

    assert {"demo", "test", "check"} <= named <= targets


def test_the_python_example_embeds_its_rows_in_order(sandbox: Sandbox, command: Callable[[str, str], str]) -> None:
    check = "\nassert table.select(['id', 'text']).to_pylist() == rows\n"
    (sandbox.folder / "first.py").write_text(command(README, "first.py") + check)

    printed = sandbox.run("python first.py")

    assert "completed 3 of 3" in printed
    assert "embedding: fixed_size_list<item: float>[384]" in printed


def test_the_shell_tour_gives_every_row_back(sandbox: Sandbox, command: Callable[[str, str], str]) -> None:
    sandbox.start(command(README, "up"), writes="`batchmill down` stops it")

    printed = sandbox.run(command(README, "tour"))

    assert [json.loads(line) for line in printed.splitlines() if line.startswith("{")] == DOCS
    assert pq.read_table(sandbox.folder / "first.parquet").to_pylist() == DOCS
    manifest = json.loads(manifest_path(sandbox.folder / "vectors").read_text())
    assert manifest["state"] == "completed"
    parts = [pq.read_table(sandbox.folder / "vectors" / part["name"]) for part in manifest["parts"]]
    assert [row for part in parts for row in part.select(["id", "text"]).to_pylist()] == DOCS
    assert {len(vector) for part in parts for vector in part["embedding"].to_pylist()} == {384}

    service = json.loads((sandbox.data / "service.json").read_text())
    printed = sandbox.run(command(HTTP, "http tour"), BATCHMILL_URL=service["url"], BATCHMILL_TOKEN=service["token"])

    assert '"state":"completed"' in printed
    assert printed.splitlines()[-2:] == ['{"id":1}', '{"id":2}']


def test_the_operator_of_ones_own_labels_its_rows(sandbox: Sandbox, command: Callable[[str, str], str]) -> None:
    for name in ("sentiment.py", "own.py"):
        (sandbox.folder / name).write_text(command(README, name))

    printed = sandbox.run("python own.py")

    rows = ["{'text': 'a great day', 'label': 'positive'}", "{'text': 'rain', 'label': 'other'}"]
    assert printed.splitlines() == [*rows, "1"]


@pytest.mark.parametrize(("page", "names"), [(README, ""), (MACHINES, "machines ")], ids=["readme", "how-to"])
def test_a_server_of_several_parts_does_a_job(
    page: str,
    names: str,
    sandbox: Sandbox,
    command: Callable[[str, str], str],
    valkey_url: str,
    redis_client: redis.Redis,
) -> None:
    for key in redis_client.scan_iter("batchmill:*"):  # a ledger has one blob store, and each run a folder of its own
        redis_client.delete(key)
    (sandbox.folder / "mnt").mkdir()
    documents = "".join(json.dumps(row) + "\n" for row in DOCS)
    data = sandbox.folder / "mnt" / "data"
    data.mkdir()
    (data / "docs.jsonl").write_text(documents)
    port = free_port()
    here = {
        "redis://redis.internal:6379/0": valkey_url,
        "/mnt/": f"{sandbox.folder}/mnt/",
        "--host 0.0.0.0": f"--host 127.0.0.1 --port {port}",
        "http://coordinator.internal:8642": f"http://127.0.0.1:{port}",
    }

    def placed(name: str) -> str:
        text = command(page, f"{names}{name}")
        for there, value in here.items():
            text = text.replace(there, value)
        return text

    sandbox.start(placed("coordinator"), writes="coordinator: serving")
    sandbox.start(placed("worker"), writes="run on this machine")
    token = (sandbox.folder / "token").read_text().strip()
    with batchmill.Client(f"http://127.0.0.1:{port}", token) as client:
        wait_for_workers(client, 2)
    printed = sandbox.run(placed("remote"))

    assert "completed: 3 rows done" in printed
    manifest = json.loads(manifest_path(data / "out").read_text())
    rows = [row for part in manifest["parts"] for row in pq.read_table(data / "out" / part["name"]).to_pylist()]
    assert rows == DOCS


def wait_for_workers(client: batchmill.Client, count: int) -> None:
    """Return when `count` workers have announced themselves."""
    until(lambda: len(client.workers()) >= count, f"the start of {count} workers")


def free_port() -> int:
    """Return a port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
