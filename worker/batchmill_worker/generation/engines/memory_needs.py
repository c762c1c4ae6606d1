"""Refuses models that need more memory than there is, before they are loaded: later the process would be killed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.errors import InvalidParams

if TYPE_CHECKING:
    from batchmill_worker.models.model_memory import SlotMemory

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class MemoryNeeds:
    """What a model takes in bytes. weights: of the model. token: of the cache, for each token of each row in flight.

    are_weights_shared: whether all processes of a machine map the same file.
    """

    weights: int
    token: int
    context: int
    places: int
    are_weights_shared: bool = False

    @property
    def cache(self) -> int:
        """Bytes of the cache of all rows in flight."""
        return self.token * self.context * self.places

    def refuse_if_too_large(self, operator: str, model: str, memory: SlotMemory | None) -> None:
        """Raise `InvalidParams` if there is less memory; None: it is unknown how much there is."""
        if memory is None:
            return
        there_is = memory.total if self.are_weights_shared else memory.own
        cache = self.cache * (memory.sharers if self.are_weights_shared else 1)
        if self.weights + cache <= there_is:
            return
        raise InvalidParams(
            f"operator {operator!r}: the model {model} needs {_gib(self.weights + cache)} ({_gib(self.weights)} for "
            f"its weights and {_gib(cache)} for {self.places} rows of {self.context} tokens), and the worker has "
            f"{_gib(there_is)} for it.",
            hint=self._what_would_fit(there_is - self.weights, cache),
            operator=operator,
            parameter="model",
        )

    def _what_would_fit(self, left: int, cache: int) -> str:
        tokens = left * self.context * self.places // max(cache, 1)
        if tokens >= 2 * 64:  # the smallest that the parameters allow
            return f"Lower 'places' or 'context': their product may be up to {tokens}."
        return "Use a smaller or more strongly quantised model, or workers with more memory."


def _gib(nbytes: int) -> str:
    return f"{nbytes / GIB:.2f} GiB"
