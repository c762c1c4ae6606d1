"""An inspector of the coordinator; `batchmill.processes.inspection` says how it is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.errors import BatchmillError, InvalidSource
from batchmill.processes.inspection import serve
from batchmill.processes.messages import Message
from batchmill.settings import CoordinatorSettings
from batchmill.sources.files.opening import observe_reading
from batchmill_coordinator.inspection.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.processes.inspection import ReadingNotes

ARROW_THREADS = 2


def open_tasks(settings: dict[str, Any], notes: ReadingNotes) -> Callable[[Message], Message]:
    """Return what answers the coordinator's questions."""
    pa.set_cpu_count(ARROW_THREADS)
    pa.set_io_thread_count(ARROW_THREADS)
    observe_reading(notes.note)
    tasks = Tasks(CoordinatorSettings(**settings["coordinator"]))
    return lambda question: _answer(tasks, question, notes, settings["memory_mb"])


def _answer(tasks: Tasks, question: Message, notes: ReadingNotes, memory_mb: int) -> Message:
    """Run a task, and turn what it raises into an answer."""
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


if __name__ == "__main__":
    serve(open_tasks)
