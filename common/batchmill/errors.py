"""Every error Batchmill raises on purpose, and the envelope that carries it over HTTP.

BatchmillError
├── InvalidRequest            the request itself is wrong; nothing was stored
│   ├── UnknownOperator       ├── InvalidParams      ├── InvalidSource
│   ├── InvalidRows           ├── InvalidOutput      ├── PayloadTooLarge
│   ├── MethodNotAllowed      ├── RequestTimeout     ├── HeadersTooLarge
│   └── MalformedRequest
├── InvalidOperator           an operator's code breaks the contract
├── OperatorFailed            an operator fails whatever row it is given, or cannot be set up
│   └── QuotaUsedUp           a service that it asks answers no more until somebody raises a quota there
├── NotFound                  no such job, upload or route
│   └── ModelNotFound         no such served model
├── Conflict                  the idempotency key was used for another request, or the job's state does not allow it
├── Unauthorized              the token is missing or wrong
├── Forbidden                 the token is right, and does not allow this
├── ServiceUnavailable        the service, its ledger or its workers cannot be reached
│   ├── LedgerRefused         the ledger's Redis wants another password, permission or setting
│   ├── OutcomeUnknown        it did not answer: the request may have been executed
│   ├── Overloaded            it has too much to do; the same request succeeds later
│   │   └── TooManyRequests   too many interactive requests wait already
│   ├── ModelNotLoaded        no worker has the model loaded yet
│   ├── WorkerLost            the worker that answered an interactive request is gone
│   └── AnswerTimeout         an interactive request was not answered in time
├── StorageError              a file or bucket could not be read or written
│   ├── StorageUnavailable    it is full, read-only or away; the same works later
│   │   └── StreamUnavailable the source of a stream is away: its job waits for it
│   └── DamagedData           what is stored is not what was written
├── UnreadableRecord          a record in the ledger was written by another version, or is damaged
├── InvalidSettings           a setting is missing or wrong; the service does not start
├── MissingExtra              an optional part is not installed
├── StaleToken                this attempt is no longer the shard's; its writes change nothing
└── JobEnded                  the job ended without completing
    ├── JobFailed             ├── JobCancelled       └── JobExpired
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable


_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class BatchmillError(Exception):
    """Base class of all errors that Batchmill raises on purpose.

    Args:
        message: What was expected and what was found.
        hint: What to do about it.
        **details: Plain JSON values that name the cause: a file, a line, a row, a parameter.

    Attributes:
        code: The error's code in HTTP answers and in a job's `error`.
        http_status: The HTTP status of an answer with this error.
        message: As above.
        hint: As above.
        details: As above.
    """

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, hint: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()

    def envelope(self) -> dict[str, Any]:
        """Return the JSON body that carries this error over HTTP.

        Returns:
            `{"error": {"code", "message", "hint", "details", "type", "param"}}`. The last two are for clients of
            OpenAI's API: the kind of error, and the field of the request that it is about.
        """
        body = {"code": self.code, "message": self.message, "hint": self.hint, "details": self.details}
        return {"error": {**body, "type": self._type, "param": self._param}}

    @property
    def _type(self) -> str:
        if self.http_status >= 500:
            return "server_error"
        return _TYPES.get(self.http_status, "invalid_request_error")

    @property
    def _param(self) -> str | None:
        named = (self.details.get(name) for name in ("field", "parameter"))
        return next((str(name) for name in named if name), None)


class InvalidRequest(BatchmillError):
    """Something in the request is wrong; nothing was stored."""

    code = "invalid_request"
    http_status = 422


class UnknownOperator(InvalidRequest):
    """No worker has an operator of this name."""

    code = "unknown_operator"


class InvalidParams(InvalidRequest):
    """The operator's parameters do not fit its parameter model."""

    code = "invalid_params"


class InvalidSource(InvalidRequest):
    """The source is missing, empty, unreadable, malformed, or outside the configured roots."""

    code = "invalid_source"


class InvalidRows(InvalidRequest):
    """A row does not fit: a column is missing, or its type differs from the rows before it."""

    code = "invalid_rows"


class InvalidOutput(InvalidRequest):
    """The output folder cannot be used: it is not empty, not writable, or outside the configured roots."""

    code = "invalid_output"


class PayloadTooLarge(InvalidRequest):
    """The request's body is larger than the limit."""

    code = "payload_too_large"
    http_status = 413


class MalformedRequest(InvalidRequest):
    """The request is no valid HTTP."""

    code = "malformed_request"
    http_status = 400


class MethodNotAllowed(InvalidRequest):
    """The route exists, but not with this method; the header `Allow` lists those it has."""

    code = "method_not_allowed"
    http_status = 405


class RequestTimeout(InvalidRequest):
    """The request was not received in time."""

    code = "request_timeout"
    http_status = 408


class HeadersTooLarge(InvalidRequest):
    """The request line and the headers are over the limit."""

    code = "headers_too_large"
    http_status = 431


class InvalidOperator(BatchmillError):
    """An operator's code does not fit the operator contract."""

    code = "invalid_operator"


class OperatorFailed(BatchmillError):
    """An operator fails for every row, or cannot be set up: the cause is the operator or the worker, not a row.

    `details` has `operator`, `error_type`, `error` and `traceback` of the first failure.
    """

    code = "operator_failed"


class QuotaUsedUp(OperatorFailed):
    """A service that an operator asks answers nothing more until somebody raises a quota there; the job is paused."""

    code = "quota_used_up"


class NotFound(BatchmillError):
    """There is no job, upload or route of that name."""

    code = "not_found"
    http_status = 404


class ModelNotFound(NotFound):
    """No model of that name is served."""

    code = "model_not_found"


class Conflict(BatchmillError):
    """The idempotency key was used for a different request, or the job's state does not allow the action."""

    code = "conflict"
    http_status = 409


class Unauthorized(BatchmillError):
    """The bearer token is missing or wrong."""

    code = "unauthorized"
    http_status = 401


class Forbidden(BatchmillError):
    """The bearer token is known but does not allow this: it is read-only, or no admin token."""

    code = "forbidden"
    http_status = 403


class ServiceUnavailable(BatchmillError):
    """The service, or the ledger behind it, cannot be reached."""

    code = "service_unavailable"
    http_status = 503
    is_unexecuted: bool = False  # the ledger answered that it executed nothing


class LedgerRefused(ServiceUnavailable):
    """The ledger's Redis refuses until somebody changes a password, a permission or a setting, which is named."""

    code = "ledger_refused"


class OutcomeUnknown(ServiceUnavailable):
    """The connection to the ledger ended before it answered: the request may have been carried out."""

    code = "outcome_unknown"


class Overloaded(ServiceUnavailable):
    """The service has too much to do, or the tenant has used up a limit. The header `Retry-After` says when to try."""

    code = "overloaded"


class TooManyRequests(Overloaded):
    """Too many interactive requests wait for the model, or are the tenant's; `Retry-After` says when to try again."""

    code = "too_many_requests"
    http_status = 429


class ModelNotLoaded(ServiceUnavailable):
    """No worker has the model loaded yet; `Retry-After` says when to try again."""

    code = "model_not_loaded"


class WorkerLost(ServiceUnavailable):
    """The worker that was answering an interactive request is gone, and the answer with it."""

    code = "worker_lost"


class AnswerTimeout(ServiceUnavailable):
    """An interactive request was not answered in time; it is not computed any more."""

    code = "answer_timeout"
    http_status = 504


class StorageError(BatchmillError):
    """A file or an object could not be read or written."""

    code = "storage_error"
    http_status = 507


class StorageUnavailable(StorageError):
    """The storage is full, read-only, or does not answer: what failed succeeds once that is over."""

    code = "storage_unavailable"


class StreamUnavailable(StorageUnavailable):
    """The source of a stream does not answer: a job that reads it waits until it does."""

    code = "stream_unavailable"


class DamagedData(StorageError):
    """What is stored is not what Batchmill wrote there, by no fault of a row or a worker; `details` has its `path`."""

    code = "damaged_data"


class InvalidSettings(BatchmillError):
    """A setting is missing or wrong; the service does not start."""

    code = "invalid_settings"


class UnreadableRecord(BatchmillError):
    """A record in the ledger cannot be read by this version: another one wrote it, or it is damaged."""

    code = "unreadable_record"


class MissingExtra(BatchmillError):
    """An optional part of Batchmill is needed and not installed."""

    code = "missing_extra"


class StaleToken(BatchmillError):
    """The attempt is no longer the shard's current one; its write changed nothing."""

    code = "stale_token"


class JobEnded(BatchmillError):
    """The job ended without completing."""

    code = "job_ended"


class JobFailed(JobEnded):
    """The job failed."""

    code = "job_failed"


class JobCancelled(JobEnded):
    """The job was cancelled."""

    code = "job_cancelled"


class JobExpired(JobEnded):
    """The job's deadline passed before it was done."""

    code = "job_expired"


def from_envelope(body: Any, http_status: int) -> BatchmillError:
    """Return the typed error of an HTTP error body; any other body becomes a plain `BatchmillError`."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return BatchmillError(f"the server answered {http_status} with a body that is no Batchmill error")
    kind = _BY_CODE.get(str(error.get("code")), BatchmillError)
    details = error.get("details")
    return kind(
        str(error.get("message", "")),
        hint=str(error.get("hint", "")),
        **(details if isinstance(details, dict) else {}),
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known names, or lists all of them when none is near."""
    names = sorted(known)
    near = closest(name, names)
    if near:
        return f"Did you mean {' or '.join(repr(n) for n in near)}?"
    return f"Known: {', '.join(names)}." if names else ""


def nearest_of(name: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known names; "" when none is near. For messages that list all of them."""
    return did_you_mean(name, closest(name, known))


def closest(name: str, known: Iterable[str]) -> list[str]:
    """The nearest known names, at most three, the nearest first."""
    return difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.6)


def _subclasses(kind: type[BatchmillError]) -> Iterable[type[BatchmillError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _subclasses(child)


_BY_CODE = {kind.code: kind for kind in _subclasses(BatchmillError)}
