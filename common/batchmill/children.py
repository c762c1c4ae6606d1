"""Child processes that are kept running: started, restarted with backoff when they die, stopped together."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from batchmill.clock import Clock, SystemClock
from batchmill.tether import tethered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)

BACKOFF_S = 0.5
BACKOFF_MAX_S = 30.0
STABLE_S = 60.0  # a child that ran so long starts over with the shortest backoff
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A command to keep running."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log_file: Path | None = None  # None: it writes where this process writes
    stop_signal: signal.Signals = signal.SIGTERM


def restart_delay_s(deaths: int) -> float:
    """How long to wait before the next start, after so many deaths in a row. Pure."""
    return float(min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(max(deaths - 1, 0), 60)))


@dataclass(slots=True)
class _Child:
    spec: ChildSpec
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0  # monotonic
    deaths: int = 0
    due_at: float = 0.0  # monotonic: when to start it again
    output: IO[bytes] | None = field(default=None, repr=False)


class ChildKeeper:
    """Keeps child processes running until it is stopped. All of its processes are tied to this one.

    on_death: told the name and the process id of a child that died; answers whether it died of its work: the next one
    is given other work, and is started with the shortest backoff.
    """

    def __init__(self, clock: Clock | None = None, on_death: Callable[[str, int], bool] | None = None) -> None:
        self._clock = clock or SystemClock()
        self._on_death = on_death
        self._children: list[_Child] = []
        self._stop_asked = threading.Event()

    def start(self, spec: ChildSpec) -> subprocess.Popen[bytes]:
        """Start a child, to be kept running by `watch`."""
        child = _Child(spec)
        self._children.append(child)
        return self._spawn(child)

    def ask_to_stop(self) -> None:
        """Make `watch` return soon. Safe in a signal handler and in other threads."""
        self._stop_asked.set()

    @property
    def is_stopping(self) -> bool:
        """Whether `ask_to_stop` was called."""
        return self._stop_asked.is_set()

    def watch(self) -> None:
        """Keep the children running until `ask_to_stop`."""
        while not self._stop_asked.wait(POLL_S):
            for child in self._children:
                self._look_after(child)

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
        if code is None:
            return
        of_its_work = self._on_death is not None and self._on_death(child.spec.name, child.process.pid)
        child.deaths = 1 if of_its_work or now - child.started_at > STABLE_S else child.deaths + 1
        delay = restart_delay_s(child.deaths)
        log.error("%s %s; it is started again in %.1f s", child.spec.name, describe_exit(code), delay)
        self._close(child)
        child.due_at = now + delay

    def _spawn(self, child: _Child) -> subprocess.Popen[bytes]:
        spec = child.spec
        if spec.log_file is not None:
            child.output = spec.log_file.open("ab")
        child.process = subprocess.Popen(  # noqa: S603  # our own commands
            tethered(spec.command),
            env={**os.environ, **spec.env},
            stdin=subprocess.DEVNULL,
            stdout=child.output,
            stderr=child.output,
            start_new_session=True,  # a Ctrl-C in the terminal reaches only us; we stop them in order
        )
        child.started_at = self._clock.monotonic()
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
