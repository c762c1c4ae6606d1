"""An inspector: `python -m batchmill_coordinator.inspection CONNECTION NOTES`, both open file descriptors.

It receives the settings first, says that it is ready, and then answers questions one by one until the connection ends.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import threading
from collections import Counter
from contextlib import suppress

import pyarrow as pa

from batchmill.errors import BatchmillError, InvalidSource
from batchmill.settings import CoordinatorSettings
from batchmill.sources.opening import observe_reading
from batchmill_coordinator.inspection.pool import NOTE_BYTES
from batchmill_coordinator.inspection.tasks import Tasks
from batchmill_coordinator.inspection.wire import Message, receive, send

ARROW_THREADS = 2
MAX_NAMED_FILES = 20


class ReadingNotes:
    """Writes the names of the files that are being read where the coordinator finds them if this process dies."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()
        self._number = 0  # of the question
        self.last = ""

    def note(self, uri: str, begins: bool) -> None:  # the signature of `observe_reading`
        """Note that a file begins or ends to be read."""
        with self._lock:
            self._open[uri] += 1 if begins else -1
            if self._open[uri] <= 0:
                del self._open[uri]
            if begins:
                self.last = uri
            self._write([*self._open] or [self.last])

    def begin_task(self, number: int) -> None:
        """Note that a question is begun, and forget the files of the one before."""
        with self._lock:
            self.last = ""
            self._number = number
            self._write([])

    def _write(self, files: list[str]) -> None:
        noted = json.dumps([self._number, *files[:MAX_NAMED_FILES]]).encode() + b"\n"
        if len(noted) <= NOTE_BYTES:
            os.pwrite(self._descriptor, noted, 0)


def main() -> None:
    """Serve the connection until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    notes = ReadingNotes(int(sys.argv[2]))
    settings = CoordinatorSettings(**receive(connection).value)
    _limit(settings.inspection_memory_mb)
    observe_reading(notes.note)
    tasks = Tasks(settings)
    send(connection, Message({}))
    with suppress(EOFError, OSError):
        while True:
            question = receive(connection)
            notes.begin_task(question.value["question"])
            answer = _answer(tasks, question, notes, settings.inspection_memory_mb)
            send(connection, answer)
            if answer.value.get("last"):
                return


def _answer(tasks: Tasks, question: Message, notes: ReadingNotes, memory_mb: int) -> Message:
    """Run a task, and turn what it raises into an answer; after one that says `last` this process ends."""
    try:
        return tasks.run(question)
    except BatchmillError as error:
        return Message(error.envelope())
    except MemoryError:
        reason = f"it needs more than {memory_mb:,} MiB of memory to be read"
        return Message({**_unreadable(notes.last, reason), "last": True})
    except Exception as error:  # noqa: BLE001  # whatever a decoder raises is about what it was given
        return Message(_unreadable(notes.last, f"{type(error).__name__}: {str(error)[:500]}"))


def _unreadable(file: str, reason: str) -> dict[str, object]:
    subject = file or "the input"
    hint = "Check that the file is complete and has the format that its ending, or the source's format, says."
    return InvalidSource(f"{subject} cannot be read: {reason}.", hint=hint, file=file).envelope()


def _limit(memory_mb: int) -> None:
    pa.set_cpu_count(ARROW_THREADS)
    pa.set_io_thread_count(ARROW_THREADS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # not every system has this limit
        size = memory_mb * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


if __name__ == "__main__":
    main()
