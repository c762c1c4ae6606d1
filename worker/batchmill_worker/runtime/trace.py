"""A trace of the phases of every shard, in the Chrome trace format (chrome://tracing, ui.perfetto.dev).

All slots of a worker append to one file: an array with an event on each line, without its closing bracket, as the
format allows. So the file can be read at any time, however a process ended.
"""

from __future__ import annotations

import json
import os
import threading
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from batchmill.caches import Lru
from batchmill.clock import Clock, SystemClock
from batchmill.errors import InvalidSettings
from batchmill.jobs.shard import ShardRef

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_BYTES = 64 * 1024 * 1024
"""How much one process writes; later events are dropped."""

MAX_STAGES = 1_000  # attempts whose stages are known by name


class Phase(StrEnum):
    """The phases of a shard, in order; those from `PREPARE` to `FINISH` once for each batch or row."""

    CLAIM = "claim"
    LOAD = "load"
    PREPARE = "prepare"  # choosing the rows of the next batch included
    DEVICE_WAIT = "device wait"
    INFER = "infer"
    GENERATE = "generate"  # of an operator whose rows share an engine: from the first row to the last
    FINISH = "finish"
    STORE = "store"
    COMMIT = "commit"


class Recorder:
    """Records phases; this class records nothing."""

    def span(self, phase: Phase, **about: Any) -> AbstractContextManager[None]:  # noqa: ARG002  # subclasses use it
        """Record that the context is this phase, with its duration. `about` holds JSON values."""
        return nullcontext()

    def name_stage(self, attempt: str, name: str) -> None:
        """Name the stage of an attempt: its spans that end from now on have that name."""


NO_TRACE = Recorder()


class Recorders(Recorder):
    """Several recorders that record the same phases."""

    def __init__(self, *recorders: Recorder) -> None:
        self._recorders = recorders

    @contextmanager
    def _all(self, phase: Phase, about: dict[str, Any]) -> Iterator[None]:
        with ExitStack() as spans:
            for recorder in self._recorders:
                spans.enter_context(recorder.span(phase, **about))
            yield

    def span(self, phase: Phase, **about: Any) -> AbstractContextManager[None]:
        """Record the phase in each of them."""
        return self._all(phase, about)

    def name_stage(self, attempt: str, name: str) -> None:
        """Name the stage in each of them."""
        for recorder in self._recorders:
            recorder.name_stage(attempt, name)


class FileRecorder(Recorder):
    """Appends to a file that `begin_trace` has created. Safe for use by several threads and processes."""

    def __init__(self, path: Path, process: str, clock: Clock | None = None, *, max_bytes: int = MAX_BYTES) -> None:
        self._clock = clock or SystemClock()
        self._left = max_bytes
        self._lock = threading.Lock()
        self._known: set[int] = set()
        self._stages: Lru[str, str] = Lru(MAX_STAGES)
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise _cannot_write(path, error) from error
        self._write({"name": "process_name", "ph": "M", "args": {"name": process}})

    @contextmanager
    def _timed(self, phase: Phase, about: dict[str, Any]) -> Iterator[None]:
        started = self._clock.monotonic()
        try:
            yield
        finally:
            ended = self._clock.monotonic()
            self._name_thread()
            self._write(
                {
                    "name": phase.value,
                    "ph": "X",
                    "ts": round(started * 1e6, 1),
                    "dur": round((ended - started) * 1e6, 1),
                    "args": about | self._of_attempt(about.get("shard", "")),
                }
            )

    def _of_attempt(self, attempt: str) -> dict[str, Any]:
        if not attempt:
            return {}
        ref, name = ShardRef.from_key(attempt), self._stages.get(attempt)
        return {"job": ref.job_id, "stage": ref.stage} | ({"stage_name": name} if name else {})

    def name_stage(self, attempt: str, name: str) -> None:
        """See `Recorder.name_stage`."""
        self._stages.put(attempt, name)

    def span(self, phase: Phase, **about: Any) -> AbstractContextManager[None]:
        """Record when the context begins and ends, and in which thread."""
        return self._timed(phase, about)

    def close(self) -> None:
        """Close the file; later events are dropped."""
        with self._lock:
            self._left = 0
            os.close(self._file)

    def _name_thread(self) -> None:
        thread = threading.get_native_id()
        if thread not in self._known:
            self._known.add(thread)
            self._write({"name": "thread_name", "ph": "M", "args": {"name": threading.current_thread().name}})

    def _write(self, event: dict[str, Any]) -> None:
        event |= {"pid": os.getpid(), "tid": threading.get_native_id()}
        line = (json.dumps(event) + ",\n").encode()
        with self._lock:
            if len(line) <= self._left:
                self._left -= len(line)
                os.write(self._file, line)  # in one piece: other processes append to the same file
            else:
                self._left = 0


def begin_trace(path: Path) -> None:
    """Create an empty trace, for recorders to append to. Raises `InvalidSettings` if the file cannot be written."""
    try:
        path.write_text("[\n")
    except OSError as error:
        raise _cannot_write(path, error) from error


def read_trace(path: Path) -> list[dict[str, Any]]:
    """Read the events of a trace, without an incomplete last line."""
    lines = path.read_text().splitlines()[1:]
    return [json.loads(line.rstrip(",")) for line in lines if line.endswith("},")]


def _cannot_write(path: Path, error: OSError) -> InvalidSettings:
    return InvalidSettings(
        f"the trace {path} cannot be written: {error.strerror}.", hint="Name a file in an existing folder."
    )
