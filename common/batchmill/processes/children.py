"""Child processes that are kept running: restarted when they die, replaced when asked, stopped together."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING

from batchmill.backoff import Backoff
from batchmill.clock import Clock, SystemClock
from batchmill.processes.tether import tethered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)

RESTART = Backoff(base_s=1.0, max_s=60.0)
STABLE_S = 60.0  # a child that ran so long starts over with the shortest backoff
POLL_S = 0.2
CRASH_LOOP_DEATHS = 3  # so many in a row, and it is no accident


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A command to keep running."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log_file: Path | None = None  # None: it writes where this process writes
    stop_signal: signal.Signals = signal.SIGTERM
    cores: Sequence[int] | None = None  # the logical cores it runs on; None: any


@dataclass(frozen=True, slots=True)
class ChildEnd:
    """How a child ended that was to run on.

    starts: how often it had been started by then.
    was_recycled: whether it was asked to end, to be replaced.
    """

    name: str
    pid: int
    code: int
    starts: int
    was_recycled: bool


@dataclass(frozen=True, slots=True)
class ChildState:
    """How a child stands. pid: None while it waits to be started again. deaths: in a row, of late."""

    name: str
    pid: int | None
    deaths: int

    @property
    def is_crash_looping(self) -> bool:
        """Whether it dies again and again."""
        return self.deaths >= CRASH_LOOP_DEATHS


@dataclass(slots=True)
class _Child:
    spec: ChildSpec
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0  # monotonic
    starts: int = 0
    deaths: int = 0
    recycle_by: float | None = None  # monotonic: it was asked to end, and is killed if it has not by then
    due_at: float = 0.0  # monotonic: when to start it again
    output: IO[bytes] | None = field(default=None, repr=False)


class ChildKeeper:
    """Keeps child processes running until it is stopped. All of its processes are tied to this one.

    on_end: called for each child that ended by itself or was recycled, before it is started again; never for one that
        `stop` ended. Answers whether the child died of its work: the next one is given other work, and is started with
        the shortest backoff.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        on_end: Callable[[ChildEnd], bool] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311  # jitter, no secret
        self._on_end = on_end
        self._children: list[_Child] = []
        self._is_stopping = False
        self._wakeups: SimpleQueue[None] = SimpleQueue()  # an Event's lock may be held by the code that a signal stops

    def start(self, spec: ChildSpec) -> subprocess.Popen[bytes]:
        """Start a child, to be kept running by `watch`."""
        child = _Child(spec)
        self._children.append(child)
        return self._spawn(child)

    def ask_to_stop(self) -> None:
        """Make `watch` return soon. Safe in a signal handler and in other threads."""
        self._is_stopping = True
        self._wakeups.put(None)

    @property
    def is_stopping(self) -> bool:
        """Whether `ask_to_stop` was called."""
        return self._is_stopping

    def watch(self) -> None:
        """Keep the children running until `ask_to_stop`."""
        while not self.wait(POLL_S):
            self.look()

    def wait(self, timeout_s: float) -> bool:
        """Wait until `ask_to_stop` or for so long; whether it is time to stop."""
        if not self._is_stopping:
            with suppress(Empty):
                self._wakeups.get(timeout=timeout_s)
        return self._is_stopping

    def look(self) -> None:
        """See to every child once: what `watch` does all the time."""
        for child in self._children:
            self._look_after(child)

    def states(self) -> list[ChildState]:
        """How the children stand. Safe in other threads."""
        now = self._clock.monotonic()
        return [self._state(child, child.process, now) for child in list(self._children)]

    def recycle(self, name: str, grace_s: float) -> None:
        """Ask a child to end, so that it is started afresh; kill it if it has not ended after `grace_s`.

        It does not count as a death. Nothing happens to one that has been asked already, or does not run.
        """
        for child in self._children:
            if child.spec.name == name and child.process is not None and child.recycle_by is None:
                child.recycle_by = self._clock.monotonic() + grace_s
                self._signal(child)

    def kill(self) -> None:
        """Kill every child at once. Safe in a signal handler; `stop` is still to be called."""
        for child in self._children:
            if child.process is not None:
                child.process.kill()

    def stop(self, grace_s: float, name: str | None = None) -> None:
        """Stop the child of that name, or all at once; kill those that are still there after `grace_s`."""
        leaving = [child for child in self._children if name in (None, child.spec.name)]
        for child in leaving:
            self._signal(child)
        ends_at = self._clock.monotonic() + grace_s
        for child in leaving:
            self._await_end(child, max(ends_at - self._clock.monotonic(), 0.1))
            self._children.remove(child)

    def _look_after(self, child: _Child) -> None:
        now = self._clock.monotonic()
        if child.process is None:
            if now >= child.due_at:
                self._spawn(child)
            return
        code = child.process.poll()
        if code is not None:
            self._mourn(child, child.process.pid, code, now)
        elif child.recycle_by is not None and now >= child.recycle_by:
            log.warning("%s did not end in time to be started afresh and is killed", child.spec.name)
            child.process.kill()

    def _mourn(self, child: _Child, pid: int, code: int, now: float) -> None:
        name, was_recycled = child.spec.name, child.recycle_by is not None
        end = ChildEnd(name, pid, code, child.starts, was_recycled)
        of_its_work = self._on_end is not None and self._on_end(end)
        delay = 0.0
        if was_recycled:
            log.info("%s is started afresh", name)
        else:
            child.deaths = 1 if of_its_work or now - child.started_at > STABLE_S else child.deaths + 1
            delay = RESTART.delay_s(child.deaths, self._rng)
            log.error("%s %s; it is started again in %.1f s", name, describe_exit(code), delay)
        self._close(child)
        child.due_at = now + delay

    def _state(self, child: _Child, process: subprocess.Popen[bytes] | None, now: float) -> ChildState:
        is_stable = process is not None and now - child.started_at > STABLE_S
        return ChildState(child.spec.name, process.pid if process else None, 0 if is_stable else child.deaths)

    def _spawn(self, child: _Child) -> subprocess.Popen[bytes]:
        spec = child.spec
        if spec.log_file is not None:
            child.output = spec.log_file.open("ab")
        child.process = subprocess.Popen(  # noqa: S603  # our own commands
            tethered(spec.command, spec.cores),
            env={**os.environ, **spec.env},
            stdin=subprocess.DEVNULL,
            stdout=child.output,
            stderr=child.output,
            start_new_session=True,  # a Ctrl-C in the terminal reaches only us; we stop them in order
        )
        child.started_at = self._clock.monotonic()
        child.starts += 1
        child.recycle_by = None
        return child.process

    def _signal(self, child: _Child) -> None:
        if child.process is not None and child.process.poll() is None:
            child.process.send_signal(child.spec.stop_signal)

    def _await_end(self, child: _Child, grace_s: float) -> None:
        if child.process is None:
            return
        try:
            child.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            log.warning("%s did not stop in time and is killed", child.spec.name)
            child.process.kill()
            child.process.wait()
        self._close(child)

    def _close(self, child: _Child) -> None:
        child.process = None
        if child.output is not None:
            child.output.close()
            child.output = None


def describe_exit(code: int) -> str:
    """How a process ended, in words, from its return code."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
