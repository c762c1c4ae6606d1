"""Supervises child processes: restarts them when they die, replaces or ends them on request, stops them together.

Whatever a child has started ends with it, see `descendants`.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING

from batchmill.backoff import Backoff
from batchmill.clock import Clock, SystemClock
from batchmill.processes.descendants import MARK, end_descendants
from batchmill.processes.parent_death import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)

RESTART = Backoff(base_s=1.0, max_s=60.0)
STABLE_S = 60.0  # a child that ran this long starts over with the shortest backoff
POLL_INTERVAL_S = 0.2
CRASH_LOOP_DEATHS = 3  # that many in a row are no accident


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A command to keep running."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log_file: Path | None = None  # None: its output goes where this process's output goes
    stop_signal: signal.Signals = signal.SIGTERM
    cores: Sequence[int] | None = None  # the logical cores it runs on; None: any


@dataclass(frozen=True, slots=True)
class ChildEnd:
    """The end of a child that `stop` did not end.

    starts: how often it has been started.
    was_recycled: whether `recycle` or `retire` ended it.
    """

    name: str
    pid: int
    code: int
    starts: int
    was_recycled: bool


@dataclass(frozen=True, slots=True)
class ChildState:
    """The state of a child. pid: None while it waits for its restart. deaths: consecutive ones up to now."""

    name: str
    pid: int | None
    deaths: int

    @property
    def is_crash_looping(self) -> bool:
        """Whether it has died `CRASH_LOOP_DEATHS` times in a row."""
        return self.deaths >= CRASH_LOOP_DEATHS


@dataclass(slots=True)
class _Child:
    spec: ChildSpec
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0  # monotonic
    starts: int = 0
    deaths: int = 0
    recycle_by: float | None = None  # monotonic: it was asked to end, and is killed if it has not by then
    is_retiring: bool = False  # it is not started again
    due_at: float = 0.0  # monotonic: when to start it again
    output: IO[bytes] | None = field(default=None, repr=False)
    mark: str = ""  # in the environment of the process and of what it starts


class ProcessSupervisor:
    """Keeps child processes running until it is stopped. All of them die with this process.

    on_end: called for each child that ended by itself or was recycled, before it is started again; never for one that
        `stop` ended. It returns whether the child's work killed it: the next process gets other work, and is started
        with the shortest backoff.
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
        """Start a child, which `watch` or `poll` then keeps running."""
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
        while not self.wait(POLL_INTERVAL_S):
            self.poll()

    def wait(self, timeout_s: float) -> bool:
        """Wait until `ask_to_stop`, up to `timeout_s`; return whether it is time to stop."""
        if not self._is_stopping:
            with suppress(Empty):
                self._wakeups.get(timeout=timeout_s)
        return self._is_stopping

    def poll(self) -> None:
        """Check every child once: restart what is due, report what has ended, kill what overran its grace period."""
        for child in self._children:
            self._poll(child)
        self._children = [child for child in self._children if child.process is not None or not child.is_retiring]

    def states(self) -> list[ChildState]:
        """Return the state of each child. Safe in other threads."""
        now = self._clock.monotonic()
        return [self._state(child, child.process, now) for child in list(self._children)]

    def recycle(self, name: str, grace_s: float) -> None:
        """Replace a child: ask it to end, and kill it if it has not ended after `grace_s`.

        This is not counted as a death. No effect on a child that is being recycled already, or does not run.
        """
        for child in self._children:
            if child.spec.name == name and child.process is not None and child.recycle_by is None:
                child.recycle_by = self._clock.monotonic() + grace_s
                self._signal(child)

    def retire(self, name: str, grace_s: float) -> None:
        """End a child for good, as `recycle` does; `on_end` is called. Returns at once."""
        for child in self._children:
            child.is_retiring |= child.spec.name == name
        self.recycle(name, grace_s)

    def kill(self) -> None:
        """Kill every child at once. Safe in a signal handler; `stop` is still to be called."""
        for child in self._children:
            if child.process is not None:
                child.process.kill()

    def kill_one(self, name: str) -> None:
        """Kill the child of that name; the next `poll` reports its end and restarts it."""
        for child in self._children:
            if child.spec.name == name and child.process is not None:
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

    def _poll(self, child: _Child) -> None:
        now = self._clock.monotonic()
        if child.process is None:
            if now >= child.due_at and not child.is_retiring:
                self._spawn(child)
            return
        code = _code_of_ended(child)
        if code is not None:
            self._on_exit(child, child.process.pid, code, now)
        elif child.recycle_by is not None and now >= child.recycle_by:
            log.warning("%s did not end in time for its restart and is killed", child.spec.name)
            child.process.kill()

    def _on_exit(self, child: _Child, pid: int, code: int, now: float) -> None:
        name, was_recycled = child.spec.name, child.recycle_by is not None
        end = ChildEnd(name, pid, code, child.starts, was_recycled)
        work_killed_it = self._on_end is not None and self._on_end(end)
        delay = 0.0
        if was_recycled:
            log.info("%s is %s", name, "stopped" if child.is_retiring else "restarted")
        else:
            child.deaths = 1 if work_killed_it or now - child.started_at > STABLE_S else child.deaths + 1
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
        child.mark = secrets.token_hex(8)
        child.process = subprocess.Popen(  # noqa: S603  # our own commands
            die_with_parent(spec.command, spec.cores),
            env={**os.environ, **spec.env, MARK: child.mark},
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
        if child.process is not None and _code_of_ended(child) is None:
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
        end_descendants(child.process.pid, child.mark)
        self._close(child)

    def _close(self, child: _Child) -> None:
        child.process = None
        if child.output is not None:
            child.output.close()
            child.output = None


def _code_of_ended(child: _Child) -> int | None:
    """Return the exit code of a child that has ended, whose descendants end now too; None while it runs."""
    if child.process is None:
        return None
    was_running = child.process.returncode is None
    code = child.process.poll()
    if code is not None and was_running:
        end_descendants(child.process.pid, child.mark)
    return code


def describe_exit(code: int) -> str:
    """Describe how a process ended, from its return code: \"was ended by SIGKILL\"."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
