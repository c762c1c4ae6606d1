"""Bytewax over a stream of Redis, as a script of its own: each entry through a function that does nothing, to a file.

It prints how many seconds the flow took, without its imports. No recovery is set up: after a crash it would begin anew.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bytewax.operators as op
import redis
from bytewax.connectors.files import FileSink
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.testing import run_main

if TYPE_CHECKING:
    from datetime import datetime

READ_AT_ONCE = 1000


class _Entries(StatelessSourcePartition[dict[str, str]]):
    """The first rows of a stream, then its end."""

    def __init__(self, socket: str, key: str, rows: int) -> None:
        self._redis: Any = redis.Redis(unix_socket_path=socket)
        self._key = key
        self._left = rows
        self._after = "0-0"

    def next_batch(self) -> list[dict[str, str]]:
        if self._left <= 0:
            raise StopIteration
        entries = self._redis.xrange(self._key, f"({self._after}", "+", count=min(self._left, READ_AT_ONCE))
        if entries:
            self._after, self._left = entries[-1][0].decode(), self._left - len(entries)
        return [{name.decode(): value.decode() for name, value in fields.items()} for _, fields in entries]

    def next_awake(self) -> datetime | None:
        return None


class _Source(DynamicSource[dict[str, str]]):
    def __init__(self, socket: str, key: str, rows: int) -> None:
        self._arguments = (socket, key, rows)

    def build(self, _step_id: str, _worker_index: int, _worker_count: int) -> _Entries:
        return _Entries(*self._arguments)


def main(socket: str, key: str, rows: str, target: str) -> None:
    flow = Dataflow("echo")
    entries = op.input("in", flow, _Source(socket, key, int(rows)))
    echoed = op.map("echo", entries, lambda row: row)
    lines = op.map("line", echoed, lambda row: ("all", json.dumps(row)))
    op.output("out", lines, FileSink(Path(target)))
    began = time.perf_counter()
    run_main(flow)
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main(*sys.argv[1:])
