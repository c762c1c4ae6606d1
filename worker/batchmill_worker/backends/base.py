"""The seam between text operators and the libraries that run models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from batchmill.operators.contract import BackendInfo


class Backend(Protocol):
    """Runs one loaded model. Called by one thread at a time."""

    @property
    def info(self) -> BackendInfo:
        """Return its name, its number format, and how exact it was measured to be."""

    def forward(self, features: Mapping[str, Any]) -> Tensor:
        """Compute a batch: features of shape (rows, tokens) to outputs, as float32 on the device, a row each."""

    def memory_bytes(self) -> int:
        """Return the bytes of the weights."""
