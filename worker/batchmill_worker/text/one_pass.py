"""The base of text operators that pass each batch through one model once."""

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
    """A prepared batch."""

    features: dict[str, Any] | None  # what the model takes; None if no row has a text for it
    errors: dict[int, RowError]  # of the rows that fail, by position in the batch


class OnePassOperator(ABC):
    """The hooks of such an operator. Its `setup` calls `begin`; the abstract methods define its input and output."""

    def __init__(self) -> None:
        self._loaded: tuple[TextModel, TextReader] | None = None

    @abstractmethod
    def texts(self, batch: pa.Table) -> Sequence[Text | RowError]:
        """Return the model's input for each row."""

    @abstractmethod
    def on_device(self, outputs: Tensor) -> Tensor:
        """Compute on the device, from the model's outputs, a result for each row."""

    @abstractmethod
    def columns(self, outputs: Tensor) -> dict[str, Any]:
        """Make the new columns from the results of `on_device`."""

    def begin(self, model: TextModel, reader: TextReader) -> None:
        """Use this loaded model from now on."""
        self._loaded = model, reader

    def costs(self, batch: pa.Table) -> Sequence[float]:
        """Return the number of tokens of every row."""
        return self._ready()[1].costs(self.texts(batch))

    def prepare(self, batch: pa.Table) -> TokenBatch:
        """Tokenise a batch, padded to its longest row."""
        reader = self._ready()[1]
        texts, errors = reader.admit(self.texts(batch))
        return TokenBatch(reader.features(texts) if texts else None, errors)

    def infer(self, batch: TokenBatch) -> tuple[TokenBatch, Tensor | None]:
        """Run the model once."""
        model = self._ready()[0]
        return batch, None if batch.features is None else model.forward(batch.features, self.on_device)

    def finish(self, outputs: tuple[TokenBatch, Tensor | None]) -> PartialResult:
        """Return the new columns, and the rows that failed."""
        batch, tensor = outputs
        return PartialResult(pa.table({} if tensor is None else self.columns(tensor)), batch.errors)

    def teardown(self) -> None:
        """Drop the model."""
        self._loaded = None

    def memory_bytes(self) -> int:
        """Return the bytes of the model's weights on the device."""
        return self._ready()[0].memory_bytes()

    def fingerprint(self) -> str:
        """Return a fingerprint of the files that the model was loaded from."""
        return self._ready()[0].fingerprint()

    def _ready(self) -> tuple[TextModel, TextReader]:
        if self._loaded is None:
            raise RuntimeError(f"{type(self).__name__} is used before setup() or after teardown()")
        return self._loaded
