"""Failures of user code: bounded reports of exceptions, failed rows, and the attribution to row or operator."""

from __future__ import annotations

import concurrent.futures
import inspect
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchmill.errors import OperatorFailed
from batchmill.operators import row_errors
from batchmill.operators.contract import RowError

MAX_TRACEBACK_BYTES = 8 * 1024
MAX_MESSAGE_BYTES = 2 * 1024
TOO_LARGE = "too_large"
SINGLE_FAILURES_IN_A_ROW = 8
"""If the first rows of a shard, this many, all fail alone and alike, the fault is the operator's."""

_PACKAGE = Path(__file__).parent.parent
_OWN_CODE = (
    _PACKAGE,
    Path(inspect.getfile(RowError)),
    Path(concurrent.futures.__file__).parent,
)
_OPERATORS = _PACKAGE / "operators"
_ROW_ERRORS = (RowError.__module__, row_errors.__name__)


class UserCodeExit(Exception):
    """User code raised what is to end a thread or a process, its `__cause__`: here it ends only the call."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The bounded report of an exception."""

    error_type: str  # "KeyError", "torch.OutOfMemoryError"
    message: str  # at most MAX_MESSAGE_BYTES, its end cut
    traceback: str  # at most MAX_TRACEBACK_BYTES, its beginning cut, without the engine's own frames

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Make the report of an exception. Never raises, whatever the exception's own code does."""
        if isinstance(error, UserCodeExit) and error.__cause__ is not None:
            error = error.__cause__
        report = traceback.TracebackException.from_exception(error)
        _drop_own_frames(report)
        text = "".join(report.format())
        return cls(type_name(error), _head(_message(error), MAX_MESSAGE_BYTES), _tail(text, MAX_TRACEBACK_BYTES))


@dataclass(frozen=True, slots=True)
class DeadRow:
    """A row that failed for good, or until another attempt if it is retryable."""

    index: int  # 0-based, in the shard
    failure: Failure
    row: dict[str, Any]  # the input row, as JSON values: see `batchmill.jobs.dead_letters.json_value`
    retryable: bool = False  # whether trying again could help: not after a RowError that does not say so


class FailureAttribution:
    """Decides, over one shard, whether failures are the rows' fault or the operator's.

    As long as no row is done, rows that fail alone with one exception type count against the operator. A row that the
    operator rejects with a `RowError` counts neither way.

    has_succeeded: whether the operator has ever done a row in this process; a single failing row is then its own fault.
    """

    def __init__(self, operator: str, *, has_succeeded: bool) -> None:
        self._operator = operator
        self._proven = has_succeeded
        self._succeeded = False
        self._failures = 0
        self._ran_out_of_memory = False
        self._types: set[str] = set()
        self._first: Failure | None = None

    @property
    def is_undecided(self) -> bool:
        """Whether rows have failed and none is done yet."""
        return not self._succeeded and self._failures > 0

    def record_success(self) -> None:
        """Count a row that is done: from now on every failure is its row's fault."""
        self._succeeded = True

    def record_failure(self, failure: Failure, *, out_of_memory: bool = False) -> None:
        """Count a row that failed alone. Raises `OperatorFailed` if the first rows of the shard have all failed alike.

        out_of_memory: the row may just be large, so one such row proves nothing against the operator.
        """
        self._first = self._first or failure
        self._ran_out_of_memory = out_of_memory
        self._failures += 1
        self._types.add(failure.error_type)
        if self._failures >= SINGLE_FAILURES_IN_A_ROW:
            self._raise_if_operators_fault()

    def close(self) -> None:
        """End the shard, whose rows have all run. Raises `OperatorFailed` when all failed alike."""
        if self._failures >= 2 or not (self._proven or self._ran_out_of_memory):
            self._raise_if_operators_fault()

    def _raise_if_operators_fault(self) -> None:
        if self._first is None or self._succeeded or len(self._types) > 1:
            return
        if self._failures == 1:
            rows = "the first row it was given"
        else:
            rows = f"each of the first {self._failures} rows it was given one by one"
        raise operator_failed(
            self._operator,
            f"failed on {rows}",
            self._first,
            hint="The error is in the operator, its parameters or the worker's machine, or no row is what it "
            "expects. To fail single rows only, an operator returns RowError.",
        )


def operator_failed(operator: str, what: str, failure: Failure, *, hint: str) -> OperatorFailed:
    """Make the error that ends an attempt for a failure of its operator."""
    message = " ".join(f"operator {operator!r} {what}: {failure.error_type}: {failure.message}".split())
    return OperatorFailed(
        message.rstrip(":. ") + ".",
        hint=hint,
        operator=operator,
        error_type=failure.error_type,
        error=failure.message,
        traceback=failure.traceback,
    )


def too_large(failure: Failure) -> Failure:
    """Make the report of a row for which memory ran out although it was alone in its batch."""
    message = f"The row does not fit into the worker's memory, even alone: {failure.error_type}: {failure.message}"
    return Failure(TOO_LARGE, _head(message, MAX_MESSAGE_BYTES), failure.traceback)


def rejected(index: int, error: RowError, row: dict[str, Any]) -> DeadRow:
    """Make the failed row for a `RowError` that the operator returned or raised."""
    failure = Failure(type_name(error), _head(error.message, MAX_MESSAGE_BYTES), "")
    return DeadRow(index, failure, row, error.retryable)


def type_name(error: BaseException) -> str:
    """Name an exception's type as its traceback does, without "builtins." and Batchmill's own modules of row errors."""
    kind = type(error)
    if kind.__module__ in ("builtins", "__main__", *_ROW_ERRORS):
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def _drop_own_frames(report: traceback.TracebackException) -> None:
    seen: set[int] = set()
    reports = [report]
    while reports:
        one = reports.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        one.stack = traceback.StackSummary.from_list([frame for frame in one.stack if not _is_own(frame)])
        reports += [other for other in (one.__cause__, one.__context__, *(one.exceptions or ())) if other]


def _is_own(frame: traceback.FrameSummary) -> bool:
    file = Path(frame.filename)
    return not file.is_relative_to(_OPERATORS) and any(file.is_relative_to(place) for place in _OWN_CODE)


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001  # user code: whatever it raises, the failure must be reported
        return "(its message could not be made)"


def _head(text: str, limit: int) -> str:
    data = text.encode("utf-8", "backslashreplace")
    return data.decode() if len(data) <= limit else data[: limit - 4].decode("utf-8", "ignore") + " …"


def _tail(text: str, limit: int) -> str:
    data = text.encode("utf-8", "backslashreplace")
    return data.decode() if len(data) <= limit else "…" + data[3 - limit :].decode("utf-8", "ignore")
