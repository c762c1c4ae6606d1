"""Parses documents in child processes with limits on time and memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.operators.contract import RowError
from batchmill.processes.descendants import MARK
from batchmill.processes.inspectors import InspectionFailed, InspectorPool
from batchmill_worker.documents.kinds import Kind
from batchmill_worker.documents.readers import LibraryMissing, Page

if TYPE_CHECKING:
    from batchmill_worker.documents.readers import Reading

MAX_PROCESSES = 8
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_", "LD_", "PYTHON", "COVERAGE_", MARK)
"""How the names of the variables begin that a parser gets. The worker's secrets and those of the storage do not."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document's kind, and its pages: one without a number if the kind has none."""

    kind: Kind
    pages: list[Page]


class Parser:
    """Parses documents, several at a time: one for each core of this process. Thread-safe.

    timeout_s: the most time for one document.
    memory_mb: MiB of address space of a child process.
    """

    def __init__(self, *, timeout_s: float, memory_mb: int) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.size = min(MAX_PROCESSES, cores)
        self._pool = InspectorPool(
            "batchmill_worker.documents",
            {"memory_mb": memory_mb},
            {name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)},
            size=self.size,
            timeout_s=timeout_s,
        )
        self._pool.start()

    def parse(self, data: bytes, reading: Reading) -> Parsed | RowError:
        """Return the text of a document, or why it has none. Raises `LibraryMissing`."""
        asked = {
            "kind": reading.kind,
            "path": reading.path,
            "is_text": reading.is_text,
            "main_content": reading.main_content,
            "encoding": reading.encoding,
        }
        try:
            answer = self._pool.call("parse", asked, data).value
        except InspectionFailed as failed:
            advice = "raise timeout_s" if failed.was_slow else "it is damaged, or needs more memory: raise memory_mb"
            return RowError(
                f"the file broke its parser: the process that parsed it {failed.how} ({advice}, or leave it out)"
            )
        if "missing" in answer:
            raise LibraryMissing(Kind(answer["missing"]))
        if "problem" in answer:
            return RowError(f"the file {answer['problem']}")
        return Parsed(Kind(answer["kind"]), [Page(*page) for page in answer["pages"]])

    def close(self) -> None:
        """End the child processes."""
        self._pool.stop()
