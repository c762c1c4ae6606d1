"""The device of a worker process: used by one batch at a time, in the order of requests, urgent ones first."""

from __future__ import annotations

import math
import sys
from collections import deque
from threading import Lock
from typing import NamedTuple, Self


class _Waiter(NamedTuple):
    gate: Lock  # released when it is this one's turn
    is_shared: bool


class DeviceLock:
    """Grants the device to one batch at a time; a shard with quick batches does not starve the others.

    An urgent batch goes before all that wait. It runs beside an engine that schedules its rows itself, which may hold
    the device for long: such a holder is *shared*.
    """

    def __init__(self) -> None:
        self._mutex = Lock()
        self._holders = 0  # more than one: urgent batches beside a shared holder
        self._is_shared = False
        self._urgent: deque[_Waiter] = deque()
        self._others: deque[_Waiter] = deque()

    @property
    def waiting(self) -> int:
        """The number of threads that wait for it."""
        return len(self._urgent) + len(self._others)

    @property
    def urgent_waiting(self) -> int:
        """The number of those that are urgent."""
        return len(self._urgent)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self, *, is_urgent: bool = False, is_shared: bool = False) -> None:
        """Wait for the device. is_shared: whether urgent batches may run beside this holder."""
        with self._mutex:
            if not self._holders:
                self._holders, self._is_shared = 1, is_shared
                return
            if is_urgent and self._is_shared:
                self._holders += 1
                return
            waiter = _Waiter(Lock(), is_shared)
            waiter.gate.acquire()
            queue = self._urgent if is_urgent else self._others
            queue.append(waiter)
        try:
            waiter.gate.acquire()  # released by the thread before this one, which leaves the device held
        except BaseException:  # an interrupt while waiting: leave the queue
            self._leave(queue, waiter)
            raise

    def release(self, *, is_shared: bool = False) -> None:
        """Release the device. is_shared: as it was acquired."""
        with self._mutex:
            self._holders -= 1
            if is_shared:
                self._is_shared = False
            if not self._holders:
                self._hand_on()

    def _hand_on(self) -> None:
        queue = self._urgent or self._others
        if queue:
            waiter = queue.popleft()
            self._holders, self._is_shared = 1, waiter.is_shared
            waiter.gate.release()

    def _leave(self, queue: deque[_Waiter], waiter: _Waiter) -> None:
        with self._mutex:
            if waiter in queue:
                queue.remove(waiter)
                return
        self.release(is_shared=waiter.is_shared)  # it has been granted the device already


class Turn:
    """One shard's turn on the device, which may last for several batches. For one thread.

    is_urgent, is_shared: see `DeviceLock`.
    """

    def __init__(self, device: DeviceLock, *, is_urgent: bool = False, is_shared: bool = False) -> None:
        self._device = device
        self._is_urgent = is_urgent
        self._is_shared = is_shared
        self._is_held = False
        self.worked_s = 0.0  # since it began

    def begin(self, *, is_urgent: bool = False) -> None:
        """Wait for the device, unless this turn holds it already."""
        if not self._is_held:
            self._device.acquire(is_urgent=is_urgent or self._is_urgent, is_shared=self._is_shared)
            self._is_held = True
            self.worked_s = 0.0

    def end(self) -> None:
        """Release the device, if this turn holds it."""
        if self._is_held:
            self._is_held = False
            self._device.release(is_shared=self._is_shared)


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
