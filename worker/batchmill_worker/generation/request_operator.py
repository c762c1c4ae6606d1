"""What an operator of the kind `REQUEST` is to the executor that runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.columns.lineage import Path
    from batchmill_worker.generation.base import Answer, BegunAnswer, Generation, TextEngine


class RequestOperator(Protocol):
    """An operator whose rows enter and leave a running engine one by one, once it is set up."""

    @property
    def engine(self) -> TextEngine:
        """The engine, shared by all rows."""
        ...

    def render(self, row: Mapping[str, Any], path: Path, failures: int) -> Sequence[Generation]:
        """Make the requests of a row: one, or one for each part of a row that is split. For any thread.

        failures: how often it failed before. Raises `RowError`.
        """
        ...

    def resume(self, generation: Generation, begun: BegunAnswer) -> Generation:
        """Return the request with the beginning of its answer, or as it is if the answer is to begin anew."""
        ...

    def result(self, generations: Sequence[Generation], answers: Sequence[Answer]) -> dict[str, Any]:
        """Make the result of a row of its answers. Raises `RowError` for one that does not do. For any thread."""
        ...
