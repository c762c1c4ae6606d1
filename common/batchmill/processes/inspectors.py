"""The inspectors: child processes that are started before they are needed, and replaced when they die.

1. One process is kept ready; more are started, up to `size`, when all are busy. They are new processes, not forks, and
   have limits on memory and the environment that they are given.
2. A call takes an idle one, the one that last served the same key if it can, and waits for its answer up to a limit.
3. A call whose inspector died is made once more, in case it was the machine that ended it. When that one dies too, or
   does not answer in time, the call raises `InspectionFailed`, which names the files that were being read: the
   inspector notes them in a file that both share.

All are started by one thread that lasts as long as the pool: a child ends when the thread that started it does.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any

from batchmill.errors import Overloaded, ServiceUnavailable, from_envelope
from batchmill.processes.children import describe_exit
from batchmill.processes.messages import Message, receive, send
from batchmill.processes.parent_death import die_with_parent, python_module

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

START_S = 60.0
MAX_TRIES = 6
MAX_DEATHS = 2
"""A call is given up when this many inspectors have died over it."""
NOTE_BYTES = 64 * 1024


class InspectionFailed(Exception):  # it says what happened, as `JobFailed` does
    """An inspector ended or did not answer. how: "was ended by SIGABRT". files: those that it was reading."""

    def __init__(self, how: str, files: tuple[str, ...], *, was_slow: bool = False) -> None:
        super().__init__(how)
        self.how = how
        self.files = files
        self.was_slow = was_slow


def _stopping() -> ServiceUnavailable:
    return ServiceUnavailable("the process is stopping.", hint="Try again in a moment.")


@dataclass(slots=True, eq=False)
class _Inspector:
    process: subprocess.Popen[bytes]
    connection: socket.socket
    notes: IO[bytes]
    asked: int = 0  # questions
    key: str = ""  # of the call that it served last
    is_ready: bool = False
    must_end: bool = False  # by itself, soon

    def files(self) -> tuple[str, ...] | None:
        """Return the files that it noted to be reading for the last question; None if it had not begun with it."""
        noted = os.pread(self.notes.fileno(), NOTE_BYTES, 0).partition(b"\n")[0]
        with suppress(ValueError):
            number, *files = json.loads(noted or b"[0]")
            return tuple(files) if number == self.asked else None
        return ()

    def ask(self, question: Message, timeout_s: float) -> Message:
        """Send a question and wait for its answer. Raises as `send` and `receive`."""
        self.asked += 1
        send(self.connection, Message({**question.value, "question": self.asked}, question.data), timeout_s)
        return receive(self.connection, timeout_s)

    def end(self) -> int:
        """Kill it, and return its exit code, which is that of its own death if it was dead."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(0.5 if self.must_end else 0)
        self.process.kill()
        code = self.process.wait()
        self.connection.close()
        self.notes.close()
        return code


class InspectorPool:
    """Runs tasks in inspectors. Thread-safe; calls wait for an idle inspector.

    module: what an inspector runs: a module that calls `batchmill.processes.inspection.serve`.
    settings: what it receives first, plain JSON; `memory_mb` is the limit of its address space.
    env: its environment variables.
    size: the most inspectors at a time.
    timeout_s: the most time for a task; an inspector that takes longer is ended.
    """

    def __init__(
        self, module: str, settings: Mapping[str, Any], env: Mapping[str, str], *, size: int, timeout_s: float
    ) -> None:
        self._module = module
        self._settings = dict(settings)
        self._env = dict(env)
        self._size = size
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        self._idle: list[_Inspector] = []
        self._busy: set[_Inspector] = set()
        self._starting = 0
        self._orders: SimpleQueue[bool] = SimpleQueue()  # True: start one; False: the pool stops
        self._is_stopping = False
        self._starter = threading.Thread(target=self._start_as_ordered, name="inspectors", daemon=True)

    def start(self) -> None:
        """Start the first inspector, without waiting for it."""
        self._starter.start()
        with self._changed:
            self._order()

    def stop(self) -> None:
        """End all inspectors; calls that wait for one raise `ServiceUnavailable`."""
        with self._changed:
            self._is_stopping = True
            idle, self._idle = self._idle, []
            for inspector in self._busy:
                inspector.process.kill()  # the call that waits for it ends it
            self._changed.notify_all()
        self._orders.put(False)
        for inspector in idle:
            inspector.end()
        if self._starter.is_alive():
            self._starter.join()

    def call(self, task: str, arguments: Mapping[str, Any], data: bytes = b"", key: str = "") -> Message:
        """Run a task and return its answer. key: calls with one key go to one inspector, if it is idle.

        Raises the `BatchmillError` of the task, `InspectionFailed`, `Overloaded` when all inspectors stay busy, and
        `ServiceUnavailable` when none can be started.
        """
        question = Message({"task": task, **arguments}, data)
        deaths = 0
        for _ in range(MAX_TRIES):
            try:
                answer = self._ask_one(question, key)
            except InspectionFailed as failed:
                deaths += 1
                if failed.was_slow or deaths == MAX_DEATHS:
                    raise
                continue
            if answer is not None and "error" in answer.value:
                raise from_envelope(answer.value, 500)
            if answer is not None:
                return answer
        raise ServiceUnavailable(
            f"{MAX_TRIES} processes of {self._module} ended before they began.", hint="The log has more."
        )

    def _ask_one(self, question: Message, key: str) -> Message | None:
        """Ask one inspector; None if it was dead before it began."""
        inspector = self._take(key)
        try:
            answer = self._ask(inspector, question)
        except BaseException as error:
            self._drop(inspector)
            if self._is_stopping and isinstance(error, InspectionFailed):
                raise _stopping() from error
            raise
        if answer is None:
            self._drop(inspector)
            return None
        inspector.key = key
        if answer.value.get("last"):
            inspector.must_end = True
            self._drop(inspector)
        else:
            self._give_back(inspector)
        return answer

    def _ask(self, inspector: _Inspector, question: Message) -> Message | None:
        if not self._becomes_ready(inspector):
            return None
        try:
            return inspector.ask(question, self._timeout_s)
        except TimeoutError:
            how = f"took longer than {self._timeout_s:g} s"
            raise InspectionFailed(how, inspector.files() or (), was_slow=True) from None
        except (OSError, EOFError, ValueError):
            how, files = self._how_it_ended(inspector), inspector.files()
            if files is None:
                return None
            raise InspectionFailed(how, files) from None

    def _becomes_ready(self, inspector: _Inspector) -> bool:
        if not inspector.is_ready:
            try:
                receive(inspector.connection, START_S)
            except (OSError, EOFError, ValueError):
                log.error("an inspector %s before it was ready", self._how_it_ended(inspector))
                return False
            inspector.is_ready = True
        return True

    @staticmethod
    def _how_it_ended(inspector: _Inspector) -> str:
        try:
            return describe_exit(inspector.process.wait(5.0))
        except subprocess.TimeoutExpired:
            return "closed its connection"

    def _take(self, key: str) -> _Inspector:
        ends_at = time.monotonic() + self._timeout_s + START_S
        with self._changed:
            while True:
                if self._is_stopping:
                    raise _stopping()
                if self._idle:
                    chosen = max(self._idle, key=lambda one: (one.key == key, one.is_ready))
                    self._idle.remove(chosen)
                    self._busy.add(chosen)
                    return chosen
                self._order()
                if not self._changed.wait(ends_at - time.monotonic()):
                    raise Overloaded(f"all processes of {self._module} are busy.", hint="Try again in a moment.")

    def _give_back(self, inspector: _Inspector) -> None:
        with self._changed:
            self._busy.discard(inspector)
            self._idle.append(inspector)
            self._changed.notify()

    def _drop(self, inspector: _Inspector) -> None:
        inspector.end()
        with self._changed:
            self._busy.discard(inspector)
            self._order()

    def _order(self) -> None:
        """Have another inspector started, unless there are enough. The lock is held."""
        if not self._is_stopping and len(self._idle) + len(self._busy) + self._starting < self._size:
            self._starting += 1
            self._orders.put(True)

    def _start_as_ordered(self) -> None:
        while self._orders.get():
            try:
                started = self._spawn()
            except OSError:
                log.exception("an inspector could not be started")
                started = None
            with self._changed:
                self._starting -= 1
                if started is not None and self._is_stopping:
                    started.end()
                elif started is not None:
                    self._idle.append(started)
                    self._changed.notify()

    def _spawn(self) -> _Inspector:
        ours, theirs = socket.socketpair()
        notes = tempfile.TemporaryFile()  # noqa: SIM115  # the inspector's, for as long as it lives
        try:
            descriptors = (theirs.fileno(), notes.fileno())
            command = python_module(self._module, *map(str, descriptors))
            process = subprocess.Popen(  # noqa: S603  # our own command
                die_with_parent(command),
                env=self._env,
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                start_new_session=True,
            )
        except OSError:
            ours.close()
            notes.close()
            raise
        finally:
            theirs.close()
        inspector = _Inspector(process, ours, notes)
        with suppress(OSError):  # it died at once, which the first call finds
            send(ours, Message(self._settings), START_S)
        return inspector
