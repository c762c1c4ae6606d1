"""An operator whose time is known: it says itself how long each of its calls took."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import batchmill

SECONDS_A_UNIT = 0.004


@batchmill.operator("billed", columns=["id", "size"], batch_size=4, padded=True)
class Billed:
    """Takes its time for each batch, as large as its rows padded to the largest; row 5 fails until it was alone once.

    Leaves a line of JSON in the file `journal` for each call: what it was, its rows' sizes, its time, its fate.
    """

    def __init__(self, journal: str) -> None:
        self.journal = Path(journal)
        self.was_alone = False

    def note(self, call: str, sizes: list[float], started: float, *, failed: bool = False) -> None:
        line = {"call": call, "sizes": sizes, "seconds": time.perf_counter() - started, "failed": failed}
        with self.journal.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def setup(self, device: str) -> None:
        started = time.perf_counter()
        time.sleep(0.3)
        self.note(f"setup {device}", [], started)

    def cost(self, row: dict[str, Any]) -> float:
        return float(row["size"])

    def infer(self, rows: list[dict[str, Any]]) -> list[Any]:
        started = time.perf_counter()
        sizes = [row["size"] for row in rows]
        time.sleep(SECONDS_A_UNIT * max(sizes) * len(sizes))
        fails = not self.was_alone and any(row["id"] == 5 for row in rows)
        self.was_alone = self.was_alone or (fails and len(rows) == 1)
        self.note("infer", sizes, started, failed=fails)
        if fails:
            raise ConnectionError("not yet")
        return [{"done": row["id"]} for row in rows]
