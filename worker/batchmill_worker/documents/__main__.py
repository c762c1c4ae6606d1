"""The process that parses documents; `batchmill.processes.inspection` says how it is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchmill.processes.inspection import serve
from batchmill.processes.messages import Message
from batchmill_worker.documents.kinds import Kind, Unreadable
from batchmill_worker.documents.readers import LibraryMissing, Reading, read_document

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.processes.inspection import ReadingNotes


def open_tasks(settings: dict[str, Any], notes: ReadingNotes) -> Callable[[Message], Message]:  # noqa: ARG001  # it reads no files
    """Return what parses a document: its pages, or the problem with it, or the library that is missing."""
    return lambda question: _answer(question, settings["memory_mb"])


def _answer(question: Message, memory_mb: int) -> Message:
    value = question.value
    kind = Kind(value["kind"]) if value["kind"] else None
    reading = Reading(kind, value["path"], value["is_text"], value["main_content"], value["encoding"])
    try:
        found, pages = read_document(question.data, reading)
    except Unreadable as error:
        return Message({"problem": str(error)})
    except LibraryMissing as error:
        return Message({"missing": error.kind})
    except MemoryError:
        return Message({"problem": f"needs more than {memory_mb:,} MiB of memory to be parsed", "last": True})
    except Exception as error:  # noqa: BLE001  # whatever a parser raises is about the document
        return Message({"problem": f"cannot be parsed: {type(error).__name__}: {str(error)[:500]}"})
    return Message({"kind": found, "pages": [[page.number, _valid(page.text)] for page in pages]})


def _valid(text: str) -> str:
    """Replace halves of surrogate pairs, which are no characters."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


if __name__ == "__main__":
    serve(open_tasks)
