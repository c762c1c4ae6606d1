"""Errors as clients of OpenAI expect them: their statuses, their codes, and whether to send the request again. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchmill.errors import BatchmillError

PATHS = (
    "/v1/embeddings",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/models",
    "/v1/files",
    "/v1/batches",
)
UNPROCESSABLE, BAD_REQUEST = 422, 400

_CODES = {
    "unauthorized": "invalid_api_key",
    "too_many_requests": "rate_limit_exceeded",
    "payload_too_large": "request_too_large",
}
_CODES_OF_ROWS = {
    "ContextTooLong": "context_length_exceeded",
    "OutputTruncated": "output_truncated",
    "InvalidOutput": "invalid_output",
    "Refused": "content_filter",
}
"""By the type of the error of a row, of a request that failed because of it."""
_REPEATED = frozenset({"operator_failed", "invalid_operator", "answer_timeout", "conflict"})
"""Codes of errors that the same request would have again."""


def is_openai_path(path: str) -> bool:
    """Whether a path is one of OpenAI's API."""
    return path.startswith(PATHS)


def openai_status(status: int) -> int:
    """Return the status in place of one of ours."""
    return BAD_REQUEST if status == UNPROCESSABLE else status


def openai_form(error: BatchmillError) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the body of an error, and the headers that belong to it."""
    envelope = error.envelope()
    body = envelope["error"]
    headers = {"x-should-retry": "false"} if error.code in _REPEATED else {}
    body["code"] = _CODES.get(error.code, error.code)
    body["code"] = _CODES_OF_ROWS.get(str(error.details.get("error_type")), body["code"])
    if error.hint:
        body["message"] = f"{error.message} {error.hint}"
    return envelope, headers
