"""The lock of a device: in the order of requests, urgent ones first, beside a holder that shares."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from batchmill_worker.runtime.device import DeviceLock, Turn
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable


class Holders:
    """Threads that take a device, and in which order they got it."""

    def __init__(self, device: DeviceLock) -> None:
        self.device = device
        self.order: list[str] = []
        self.releases: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []

    def take(self, name: str, **how: bool) -> Callable[[], None]:
        """Begin to wait for the device; what is returned releases it."""
        release = self.releases[name] = threading.Event()

        def hold() -> None:
            turn = Turn(self.device, **how)
            turn.begin()
            self.order.append(name)
            release.wait(GRACE_S)
            turn.end()

        waiting, held = self.device.waiting, len(self.order)
        thread = threading.Thread(target=hold)
        thread.start()
        self._threads.append(thread)
        until(lambda: self.device.waiting > waiting or len(self.order) > held, f"{name}'s request")

        def leave() -> None:
            release.set()
            thread.join()

        return leave

    def end(self) -> list[str]:
        for release in self.releases.values():
            release.set()
        for thread in self._threads:
            thread.join()
        return self.order


def test_an_urgent_batch_goes_before_those_that_wait_and_after_the_one_that_runs() -> None:
    holders = Holders(DeviceLock())
    holders.take("running")
    holders.take("first")
    holders.take("second")
    holders.take("urgent", is_urgent=True)
    holders.take("also urgent", is_urgent=True)
    assert holders.order == ["running"]
    assert (holders.device.waiting, holders.device.urgent_waiting) == (4, 2)
    assert holders.end() == ["running", "urgent", "also urgent", "first", "second"]


def test_an_urgent_batch_runs_beside_a_holder_that_shares_and_keeps_the_device_from_others() -> None:
    holders = Holders(DeviceLock())
    leave = holders.take("engine", is_shared=True)
    holders.take("batch")
    done = holders.take("urgent", is_urgent=True)
    assert holders.order == ["engine", "urgent"]
    leave()
    assert "batch" not in holders.order
    holders.take("later", is_urgent=True)  # not beside an urgent batch
    assert "later" not in holders.order
    done()
    assert holders.end() == ["engine", "urgent", "later", "batch"]


def test_a_turn_waits_once_and_ends_once() -> None:
    device = DeviceLock()
    turn = Turn(device)
    turn.begin()
    turn.begin()
    turn.end()
    turn.end()
    with device:
        assert device.waiting == 0
