"""The device of a worker process: used by one batch at a time, in the order of asking."""

from __future__ import annotations

import math
import sys

from batchmill_worker.runtime.fair_lock import FairLock


class DeviceLock(FairLock):
    """The device: a shard with quick batches does not starve the others of its process."""


class Turn:
    """One shard's use of the device, which may last for several batches. For one thread."""

    def __init__(self, device: DeviceLock) -> None:
        self._device = device
        self._is_ours = False
        self.worked_s = 0.0  # since it began

    def begin(self) -> None:
        """Wait for the device, unless it is ours already."""
        if not self._is_ours:
            self._device.__enter__()
            self._is_ours = True
            self.worked_s = 0.0

    def end(self) -> None:
        """Hand the device on, if it is ours."""
        if self._is_ours:
            self._is_ours = False
            self._device.__exit__(None, None, None)


_OUT_OF_MEMORY = (
    "out of memory",
    "cudnn_status_not_supported",  # what cuDNN says when its workspace does not fit
    "cublas_status_alloc_failed",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
)
"""What messages say, in lower case, when memory ran out: CUDA's, cuDNN's, torch's CPU allocator's, onnxruntime's."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host's or the device's memory did not suffice."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if not isinstance(error, RuntimeError | OSError):
        return False
    message = str(error).lower()
    return any(words in message for words in _OUT_OF_MEMORY)


def free_cached_memory() -> None:
    """Give memory that torch keeps for later back to the device; nothing where torch is not in use."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


class DeviceMemory:
    """What a batch takes on the device at most. This one cannot tell: so it is with a CPU."""

    def begin(self) -> None:
        """A batch is about to run."""

    def peak_bytes(self) -> float | None:
        """The most that this process had allocated there since `begin`; None: not known."""
        return None

    def limit_bytes(self) -> float:
        """The most that this process could have there."""
        return math.inf


class CudaMemory(DeviceMemory):
    """What torch's allocator tells of a GPU; nothing until torch is in use."""

    def __init__(self, device: str) -> None:
        self._device = device

    def begin(self) -> None:
        """Forget the peak before."""
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats(self._device)

    def peak_bytes(self) -> float | None:
        """The allocator's peak."""
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_initialized():
            return None
        return float(torch.cuda.max_memory_allocated(self._device))

    def limit_bytes(self) -> float:
        """What is free, and what the allocator holds already; no limit is known until torch is in use."""
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_initialized():
            return math.inf
        free, _ = torch.cuda.mem_get_info(self._device)
        return float(free + torch.cuda.memory_reserved(self._device))


def memory_of(device: str) -> DeviceMemory:
    """The memory of a device by its name, `"cpu"` or `"cuda:0"`."""
    return CudaMemory(device) if device.startswith("cuda") else DeviceMemory()
