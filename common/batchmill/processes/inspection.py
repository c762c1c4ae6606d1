"""The side of the inspector: a module that an `InspectorPool` starts with two descriptors calls `serve`.

It receives its settings first, says that it is ready, and then answers questions one by one until the connection ends.
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
from typing import TYPE_CHECKING, Any

from batchmill.processes.inspectors import NOTE_BYTES
from batchmill.processes.messages import Message, receive, send

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_NAMED_FILES = 20


class ReadingNotes:
    """Writes the names of the files that are being read where the pool finds them if this process dies."""

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


def serve(open_tasks: Callable[[Any, ReadingNotes], Callable[[Message], Message]]) -> None:
    """Serve the connection until it ends.

    open_tasks: makes, from the settings and the notes, what answers a question. It must not raise; after an answer that
        says `last` this process ends.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    notes = ReadingNotes(int(sys.argv[2]))
    settings = receive(connection).value
    _limit(settings["memory_mb"])
    answer = open_tasks(settings, notes)
    send(connection, Message({}))
    with suppress(EOFError, OSError):
        while True:
            question = receive(connection)
            notes.begin_task(question.value["question"])
            answered = answer(question)
            send(connection, answered)
            if answered.value.get("last"):
                return


def _limit(memory_mb: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # not every system has this limit
        size = memory_mb * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
