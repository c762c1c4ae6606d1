"""The device of a worker process: used by one batch at a time, in the order of requests."""

from __future__ import annotations

import math
import sys

from batchmill_worker.runtime.fair_lock import FairLock


class DeviceLock(FairLock):
    """Grants the device to one batch at a time; a shard with quick batches does not starve the others."""


class Turn:
    """One shard's turn on the device, which may last for several batches. For one thread."""

    def __init__(self, device: DeviceLock) -> None:
        self._device = device
        self._is_held = False
        self.worked_s = 0.0  # since it began

    def begin(self) -> None:
        """Wait for the device, unless this turn holds it already."""
        if not self._is_held:
            self._device.__enter__()
            self._is_held = True
            self.worked_s = 0.0

    def end(self) -> None:
        """Release the device, if this turn holds it."""
        if self._is_held:
            self._is_held = False
            self._device.__exit__(None, None, None)


_OUT_OF_MEMORY = (
    "out of memory",
    "cudnn_status_not_supported",  # cuDNN, when its workspace does not fit
    "cublas_status_alloc_failed",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
)
"""Parts of messages, in lower case, when memory runs out: of CUDA, cuDNN, torch's CPU allocator, onnxruntime."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that the host's or the device's memory has run out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if not isinstance(error, RuntimeError | OSError):
        return False
    message = str(error).lower()
    return any(words in message for words in _OUT_OF_MEMORY)


def free_cached_memory() -> None:
    """Return memory that torch's allocator caches to the device; no effect where torch is not in use."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


class DeviceMemory:
    """Measures the peak memory of a batch. This class, for the CPU, measures nothing."""

    def begin(self) -> None:
        """Start measuring a batch."""

    def peak_bytes(self) -> float | None:
        """Return the most that this process had allocated on the device since `begin`; None: unknown."""
        return None

    def limit_bytes(self) -> float:
        """Return the most that this process could allocate on the device; infinite: unknown."""
        return math.inf


class CudaMemory(DeviceMemory):
    """Asks torch's allocator about a GPU; everything is unknown until torch is in use."""

    def __init__(self, device: str) -> None:
        self._device = device

    def begin(self) -> None:
        """Reset the allocator's peak."""
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats(self._device)

    def peak_bytes(self) -> float | None:
        """Return the allocator's peak."""
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_initialized():
            return None
        return float(torch.cuda.max_memory_allocated(self._device))

    def limit_bytes(self) -> float:
        """Return the free memory plus what the allocator has reserved already."""
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_initialized():
            return math.inf
        free, _ = torch.cuda.mem_get_info(self._device)
        return float(free + torch.cuda.memory_reserved(self._device))


def memory_of(device: str) -> DeviceMemory:
    """Make the memory probe of batches for a device, `"cpu"` or `"cuda:0"`."""
    return CudaMemory(device) if device.startswith("cuda") else DeviceMemory()
