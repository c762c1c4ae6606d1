"""Torch on one device: the number type a model computes in, and copies of tensors to the device and back.

Imports torch: import it where an operator sets up, never at the top of a module that registers one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from batchmill.errors import InvalidParams

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

_BFLOAT16_SINCE = (8, 0)
_FLOAT16_SINCE = (7, 0)
"""The compute capabilities from which a CUDA device has matrix units for these types."""


def resolve_dtype(name: str, kind: str, capability: tuple[int, int] | None = None) -> torch.dtype:
    """Return the type that `auto`, `float32`, `bfloat16` or `float16` means on a device.

    kind: of the device, as in `torch.device.type`.
    capability: the compute capability of a CUDA device.

    `auto` is the fastest that preserves the quality of the results: on CUDA bfloat16 where the device multiplies
    it in hardware, else float16, else float32; elsewhere float32. Raises `InvalidParams` for a type that the device
    does not compute in.
    """
    if name == "auto":
        return _fastest(kind, capability)
    if name == "bfloat16" and kind == "cuda" and (capability or (0, 0)) < _BFLOAT16_SINCE:
        raise InvalidParams(
            f"dtype is 'bfloat16', which the worker's device computes in only from compute capability "
            f"{_version(_BFLOAT16_SINCE)} on; it has {_version(capability or (0, 0))}.",
            hint="Use 'auto', 'float16' or 'float32'.",
            parameter="dtype",
        )
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"torch.{name} is no dtype")
    return dtype


def _fastest(kind: str, capability: tuple[int, int] | None) -> torch.dtype:
    if kind != "cuda" or capability is None or capability < _FLOAT16_SINCE:
        return torch.float32
    return torch.bfloat16 if capability >= _BFLOAT16_SINCE else torch.float16


def _version(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


class TorchRuntime:
    """The device of an operator.

    On CUDA, host tensors are in pinned memory, so that copies run beside the host's work. Torch caches pinned blocks
    and reuses one when the copies from it are over, so there are only a few of them for any number of batches. On the
    CPU everything is ordinary memory, and nothing is copied.
    """

    def __init__(self, device: str, dtype: str = "auto") -> None:
        self.device = torch.device(device)
        self._pins = self.device.type == "cuda"
        capability = torch.cuda.get_device_capability(self.device) if self._pins else None
        self.dtype = resolve_dtype(dtype, self.device.type, capability)

    def host_tensor(self, shape: tuple[int, ...], dtype: torch.dtype = torch.int64) -> Tensor:
        """Allocate host memory to fill, for `infer` to read; its content is undefined."""
        return torch.empty(shape, dtype=dtype, pin_memory=self._pins)

    def to_device(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """Copy the tensors of a mapping to the device. Does not wait for the copies: later work on the device does."""
        return {
            name: value.to(self.device, non_blocking=self._pins) if isinstance(value, torch.Tensor) else value
            for name, value in features.items()
        }

    def to_host(self, outputs: Tensor) -> Tensor:
        """Copy a result to the host as float32. Waits until the device is done."""
        return outputs.float().cpu()


def memory_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's weights on its device; shared parameters count once."""
    tensors = {tensor.data_ptr(): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
