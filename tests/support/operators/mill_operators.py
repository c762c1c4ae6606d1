"""Operators for the tests, imported by the workers they start."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

import batchmill


@batchmill.operator("shout", columns=["text"], batch_size=7)
def shout(rows: list[dict[str, Any]], *, mark: str = "!", times: Annotated[int, Field(ge=1, le=3)] = 1) -> list[Any]:
    """The text in capitals."""
    return [{"loud": row["text"].upper() + mark * times} for row in rows]


@batchmill.operator("names_some", columns=["id"])
def names_some(rows: list[dict[str, Any]], *, first: int) -> list[Any]:
    """A text for rows from `first` on; the results of the others do not have that column."""
    return [{"text": f"row {row['id']}"} if row["id"] >= first else {"other": True} for row in rows]


@batchmill.operator("double_arrow", columns=["id"], batch_format="arrow", batch_size=None)
def double_arrow(table: pa.Table) -> pa.Table:
    """Twice the id, in Arrow."""
    return pa.table({"twice": pc.multiply(table["id"], 2)})


@batchmill.operator("double_numpy", columns=["id"], batch_format="numpy")
class DoubleNumpy:
    """Times a factor, in NumPy, with every hook."""

    def __init__(self, factor: int = 2) -> None:
        self.factor = factor
        self.ready = False

    def setup(self, device: str) -> None:
        self.ready = device == "cpu"

    def prepare(self, batch: dict[str, Any]) -> Any:
        return batch["id"]

    def infer(self, batch: Any) -> Any:
        assert self.ready
        return batch * self.factor

    def finish(self, outputs: Any) -> dict[str, Any]:
        return {"twice": outputs}


@batchmill.operator("picky", columns=["id"], batch_size=16)
def picky(rows: list[dict[str, Any]]) -> list[Any]:
    """Gives up on every tenth row, and raises on row 25."""
    if any(row["id"] == 25 for row in rows):
        raise ValueError("25 is not to my taste")
    return [batchmill.RowError("a tenth") if row["id"] % 10 == 0 else {"kept": row["id"]} for row in rows]


@batchmill.operator("stubborn", columns=["id"])
def stubborn(rows: list[dict[str, Any]], *, ids: list[int]) -> list[Any]:
    """Raises for a batch with any of these rows."""
    bad = [row["id"] for row in rows if row["id"] in ids]
    if bad:
        raise ValueError(f"never {bad[0]}")
    return [{"out": row["id"] * 2} for row in rows]


@batchmill.operator("broken")
def broken(rows: list[dict[str, Any]]) -> list[Any]:
    """Fails on everything."""
    raise RuntimeError(f"no row of {len(rows)} will do")


@batchmill.operator("gated", columns=["id"], batch_size=1)
def gated(rows: list[dict[str, Any]], *, gate: str, first: int = 0) -> list[Any]:
    """Waits for the file `gate` before each row from `first` on; tells of each row it meets in `gate.started`."""
    with Path(f"{gate}.started").open("a") as file:
        file.writelines(f"{row['id']} {os.getpid()}\n" for row in rows)
    while rows[0]["id"] >= first and not Path(gate).exists():
        time.sleep(0.01)
    return [{"pid": os.getpid()} for _ in rows]


@batchmill.operator("hangs_once", columns=["id"], batch_size=8)
def hangs_once(rows: list[dict[str, Any]], *, gate: str, victim: int) -> list[Any]:
    """Waits for the file `gate` at the row `victim`, the first time only; names its process in `gate.hung` then."""
    if any(row["id"] == victim for row in rows):
        try:
            with Path(f"{gate}.hung").open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return [{"pid": os.getpid()} for _ in rows]
        while not Path(gate).exists():
            time.sleep(0.01)
    return [{"pid": os.getpid()} for _ in rows]


@batchmill.operator("slow", columns=["id"], batch_size=1)
def slow(rows: list[dict[str, Any]], *, seconds: float, journal: str) -> list[Any]:
    """Works on each row for a while; leaves a line in the file `journal` for each row it begins."""
    with Path(journal).open("a") as file:
        file.writelines(f"{row['id']}\n" for row in rows)
    time.sleep(seconds)
    return [{"done": True} for _ in rows]


@batchmill.operator("suicidal", columns=["id"], batch_size=1)
def suicidal(rows: list[dict[str, Any]], *, once: str) -> list[Any]:
    """Kills its process at row 5, the first time only."""
    if rows[0]["id"] == 5:
        try:
            Path(once).touch(exist_ok=False)
        except FileExistsError:
            return [{"survived": True}]
        os.kill(os.getpid(), signal.SIGKILL)
    return [{"survived": False} for _ in rows]


@batchmill.operator("killer", columns=["id"], batch_size=8)
def killer(rows: list[dict[str, Any]], *, victim: int) -> list[Any]:
    """Kills its process whenever it meets the row `victim`."""
    if any(row["id"] == victim for row in rows):
        os.kill(os.getpid(), signal.SIGKILL)
    return [{"done": True} for _ in rows]


@batchmill.operator("sleeper", columns=["id"], batch_size=8)
def sleeper(rows: list[dict[str, Any]], *, victim: int) -> list[Any]:
    """Never comes back from the row `victim`."""
    if any(row["id"] == victim for row in rows):
        time.sleep(3600)
    return [{"done": True} for _ in rows]


@batchmill.operator("flaky", columns=["id"], batch_size=16)
def flaky(rows: list[dict[str, Any]], *, log: str, failures: int = 2) -> list[Any]:
    """Every third row fails so often before it works; each run of a row alone or in a good batch leaves a line."""
    results = []
    for row in rows:
        runs = Path(log) / str(row["id"])
        if row["id"] % 3 == 0 and (not runs.exists() or runs.stat().st_size < failures):
            if len(rows) == 1:
                with runs.open("a") as file:
                    file.write("x")
            raise ConnectionError(f"row {row['id']} is not in the mood")
        results.append({"pid": os.getpid()})
    for row in rows:
        with (Path(log) / f"{row['id']}.done").open("a") as file:
            file.write("x")
    return results


@batchmill.operator("steady", columns=["id"], batch_size=4)
def steady(rows: list[dict[str, Any]], *, log: str) -> list[Any]:
    """Takes a moment for each batch; leaves a file for each row it ran."""
    time.sleep(0.05)
    for row in rows:
        with (Path(log) / str(row["id"])).open("a") as file:
            file.write("x")
    return [{"done": True} for _ in rows]


@batchmill.operator("reluctant", columns=["id"], batch_size=8)
def reluctant(rows: list[dict[str, Any]], *, cure: str, every: int = 5) -> list[Any]:
    """Gives up on every fifth row, negative ones always, as long as the file `cure` is not there."""
    well = Path(cure).exists()
    return [
        batchmill.RowError("not today")
        if row["id"] < 0 or (row["id"] % every == 0 and not well)
        else {"out": row["id"] * 2}
        for row in rows
    ]


_leaked: list[bytes] = []


@batchmill.operator("leaky", columns=["id"], batch_size=1)
def leaky(rows: list[dict[str, Any]], *, once: str, megabytes: int) -> list[Any]:
    """Its first process keeps so much memory from the first row on, and is slow."""
    if not _leaked:
        try:
            Path(once).touch(exist_ok=False)
            _leaked.append(b"x" * (megabytes << 20))
        except FileExistsError:
            return [{"pid": os.getpid()} for _ in rows]
    time.sleep(0.3)
    return [{"pid": os.getpid()} for _ in rows]


@batchmill.operator("heavy", columns=["id"], batch_size=8)
class Heavy:
    """Takes most of a worker's budget of 100 MiB; leaves a line in the file `log` for each time it is loaded."""

    def __init__(self, model: str, log: str) -> None:
        self.model = model
        self.log = Path(log)

    def setup(self, device: str) -> None:
        with self.log.open("a") as file:
            file.write(f"{self.model} {os.getpid()} {device}\n")
        time.sleep(0.3)

    def memory_bytes(self) -> int:
        return 60 * 1024 * 1024

    def infer(self, batch: list[dict[str, Any]]) -> list[Any]:
        return [{"model": self.model} for _ in batch]


@batchmill.operator("recovering", columns=["id"], batch_size=16)
def recovering(rows: list[dict[str, Any]], *, well: str) -> list[Any]:
    """Fails on everything until the file `well` is there; leaves the time of each call in `well.calls`."""
    with Path(f"{well}.calls").open("a") as file:
        file.write(f"{time.time()}\n")
    if not Path(well).exists():
        raise ConnectionError("the model server is away")
    return [{"done": True} for _ in rows]


@batchmill.operator("moody", columns=["id"], batch_size=8)
def moody(rows: list[dict[str, Any]], *, share: float) -> list[Any]:
    """Fails at random on that share of its calls, whatever the rows."""
    if random.random() < share:
        raise ConnectionError("not now")
    return [{"done": True} for _ in rows]


@batchmill.operator("wordy", columns=["id"], batch_size=16)
def wordy(rows: list[dict[str, Any]], *, nbytes: int) -> list[Any]:
    """A text of that many bytes for each row."""
    return [{"text": str(row["id"]).rjust(nbytes, ".")} for row in rows]


@batchmill.operator("unfold", columns=["id"], batch_size=16, expands=True)
class Unfold:
    """As many results as a row's id leaves over 4; rows that divide by 9 fail until `cure` is there.

    Waits for the file `gate` before rows from `first` on, where a gate is named.
    """

    def __init__(self, cure: str, gate: str = "", first: int = 0) -> None:
        self.cure, self.gate, self.first = Path(cure), Path(gate) if gate else None, first

    def infer(self, rows: list[dict[str, Any]]) -> list[Any]:
        while self.gate is not None and rows[-1]["id"] >= self.first and not self.gate.exists():
            time.sleep(0.01)
        return [self._unfold(row["id"]) for row in rows]

    def _unfold(self, number: int) -> Any:
        if number % 9 == 0 and not self.cure.exists():
            return batchmill.RowError("not now")
        return [{"piece": piece, "of": number} for piece in range(number % 4)]


@batchmill.operator("fails_pieces", columns=["of", "piece"], batch_size=16)
def fails_pieces(rows: list[dict[str, Any]], *, cure: str, every: int) -> list[Any]:
    """Fails for pieces whose number and that of their row add up to a multiple of `every`, until `cure` is there."""
    is_cured = Path(cure).exists()
    return [
        {"ok": True} if is_cured or (row["of"] + row["piece"]) % every else batchmill.RowError("not now")
        for row in rows
    ]


@batchmill.operator("staged", columns=["id"], batch_size=8)
class Staged:
    """Takes some time in `prepare` and `infer`, none of it on the processor."""

    def prepare(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        time.sleep(0.004)
        return rows

    def infer(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        time.sleep(0.008)
        return [{"out": row["id"]} for row in rows]

    def finish(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return rows


@batchmill.operator("late_model", columns=["id"])
class LateModel:
    """Is loaded once the file `gate` is there."""

    def __init__(self, gate: str) -> None:
        self.gate = Path(gate)

    def setup(self, device: str) -> None:  # noqa: ARG002  # the contract's
        while not self.gate.exists():
            time.sleep(0.01)

    def infer(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{} for _ in rows]


@batchmill.operator("hungry", columns=["id", "mb"], batch_size=8)
class Hungry:
    """Takes `mb` MiB of memory for each row of a batch at once, from the allocator of `library`: numpy or torch."""

    def __init__(self, library: str) -> None:
        self.library = library

    def setup(self, device: str) -> None:  # noqa: ARG002  # the contract's
        self.allocate(0)  # the library itself takes memory, too

    def infer(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        taken = self.allocate(sum(row["mb"] for row in rows))
        return [{"rows": len(rows), "taken": taken} for _ in rows]

    def allocate(self, mb: int) -> int:
        if self.library == "torch":
            import torch

            return int(torch.empty(mb << 20, dtype=torch.uint8).numel())
        import numpy as np

        return int(np.empty(mb << 20, dtype=np.uint8).nbytes)


@batchmill.operator("conf", columns=["id"])
def conf(rows: list[dict[str, Any]], *, config: dict[str, Any]) -> list[Any]:
    """Give the number of names in a parameter of any shape."""
    return [{"id": row["id"], "names": len(config)} for row in rows]


@batchmill.operator("pieces", columns=["count"], makes=["piece", "embedding"], expands=True)
def pieces(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """As many pieces of a document as it says, each with a vector."""
    return [
        [{"piece": piece, "embedding": [float(piece), float(row["count"])]} for piece in range(row["count"])]
        for row in rows
    ]


@batchmill.operator("place", columns=["{column}"], makes=["embedding"])
class Place:
    """A vector of a text of two numbers, as an embedding of it."""

    def __init__(self, *, column: str = "text", factor: float = 1.0) -> None:
        self.column = column
        self.factor = factor

    def infer(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"embedding": [self.factor * float(one) for one in row[self.column].split()]} for row in rows]


@batchmill.operator("lengths", columns=["text"])
def lengths(rows: list[dict[str, Any]]) -> list[Any]:
    """A vector of each text, its length and 0; none of the text "bad"."""
    return [
        batchmill.RowError("bad is no text")
        if row["text"] == "bad"
        else {"embedding": [float(len(row["text"])), 0.0], "tokens": len(row["text"].split())}
        for row in rows
    ]


@batchmill.operator("parrot")
def parrot(rows: list[dict[str, Any]]) -> list[Any]:
    """Answers with the last message, or the prompt, and how it was asked."""
    said = [row["messages"][-1]["content"] if "messages" in row else row["prompt"] for row in rows]
    asked = [json.loads(row["options"] or "{}") for row in rows]
    return [
        {
            "text": f"{text} at {options.get('temperature', 0)}",
            "finish_reason": "stop",
            "prompt_tokens": len(text),
            "cached_tokens": 1,
            "generated_tokens": options.get("max_tokens", 16),
        }
        for text, options in zip(said, asked, strict=True)
    ]
