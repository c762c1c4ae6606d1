"""What text operators have in common that pass each batch through one model once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.operators.contract import PartialResult, RowError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from batchmill_worker.text.columns import Text
    from batchmill_worker.text.model import TextModel
    from batchmill_worker.text.tokens import TextReader


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """A batch on its way."""

    features: dict[str, Any] | None  # what the model takes; None if no row has a text for it
    errors: dict[int, RowError]  # by row of the batch: those given up on


class OnePassOperator(ABC):
    """The hooks of such an operator. `setup` calls `begin`; the abstract methods say what it reads and makes."""

    def __init__(self) -> None:
        self._loaded: tuple[TextModel, TextReader] | None = None

    @abstractmethod
    def texts(self, batch: pa.Table) -> Sequence[Text | RowError]:
        """What the model reads of each row."""

    @abstractmethod
    def on_device(self, outputs: Tensor) -> Tensor:
        """What is left to compute on the device, for each row that the model has seen."""

    @abstractmethod
    def columns(self, outputs: Tensor) -> dict[str, Any]:
        """The new columns, from what `on_device` gave."""

    def begin(self, model: TextModel, reader: TextReader) -> None:
        """Take a model that is loaded."""
        self._loaded = model, reader

    def costs(self, batch: pa.Table) -> Sequence[float]:
        """The tokens of every row."""
        return self._ready()[1].costs(self.texts(batch))

    def prepare(self, batch: pa.Table) -> TokenBatch:
        """The tokens of a batch, padded to its longest row."""
        reader = self._ready()[1]
        texts, errors = reader.admit(self.texts(batch))
        return TokenBatch(reader.features(texts) if texts else None, errors)

    def infer(self, batch: TokenBatch) -> tuple[TokenBatch, Tensor | None]:
        """One pass through the model."""
        model = self._ready()[0]
        return batch, None if batch.features is None else model.forward(batch.features, self.on_device)

    def finish(self, outputs: tuple[TokenBatch, Tensor | None]) -> PartialResult:
        """The new columns, and the rows given up on."""
        batch, tensor = outputs
        return PartialResult(pa.table({} if tensor is None else self.columns(tensor)), batch.errors)

    def teardown(self) -> None:
        """Let the model go."""
        self._loaded = None

    def memory_bytes(self) -> int:
        """What the model's weights take on the device."""
        return self._ready()[0].memory_bytes()

    def fingerprint(self) -> str:
        """Which files the model was loaded from."""
        return self._ready()[0].fingerprint()

    def _ready(self) -> tuple[TextModel, TextReader]:
        if self._loaded is None:
            raise RuntimeError(f"{type(self).__name__} is used before setup() or after teardown()")
        return self._loaded
