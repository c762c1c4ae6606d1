"""What an operator of the kind `REQUEST` is to the executor that runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill.columns.lineage import Path
    from batchmill_worker.generation.base import Answer, Generation, TextEngine


class RequestOperator(Protocol):
    """An operator whose rows enter and leave a running engine one by one, once it is set up."""

    @property
    def engine(self) -> TextEngine:
        """The engine, shared by all rows."""
        ...

    def render(self, row: Mapping[str, Any], path: Path, failures: int) -> Generation:
        """Make the request of a row. failures: how often it failed before. Raises `RowError`. For any thread."""
        ...

    def result(self, generation: Generation, answer: Answer) -> dict[str, Any]:
        """Make the result of a row. Raises `RowError` for an answer that does not do. For any thread."""
        ...
