"""Torch, which runs every model on every device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from batchmill.operators.contract import BackendInfo
from batchmill_worker.runtime.torch_runtime import memory_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from batchmill_worker.runtime.torch_runtime import TorchRuntime


class TorchBackend:
    """A model of sentence-transformers in evaluation mode.

    output: the name that the model gives to what it computes: `sentence_embedding`, `scores`.
    """

    def __init__(self, model: Any, runtime: TorchRuntime, output: str) -> None:
        self.model = model
        self.output = output
        self.info = BackendInfo(name="torch", precision=str(runtime.dtype).removeprefix("torch."))
        self._runtime = runtime

    @property
    def device(self) -> str:
        """The type of its device: `cpu`, `cuda`."""
        return self._runtime.device.type

    def forward(self, features: Mapping[str, Any]) -> Tensor:
        """Implement `Backend.forward`."""
        with torch.inference_mode():
            outputs: Tensor = self.model(self._runtime.to_device(features))[self.output].float()
            return outputs

    def memory_bytes(self) -> int:
        """Return the bytes of the weights on the device."""
        return memory_bytes(self.model)
