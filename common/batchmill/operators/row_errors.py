"""The errors of rows that a language model answers. A retry policy names them: `never_on=["InvalidOutput"]`."""

from __future__ import annotations

from batchmill.operators.contract import RowError


class ContextTooLong(RowError):
    """The prompt and the answer do not fit into the model's context."""


class OutputTruncated(RowError):
    """The answer had to fit a schema, and reached `max_tokens` before it was complete."""


class InvalidOutput(RowError):
    """The answer is complete and does not fit the schema."""


class Refused(RowError):
    """The model or its service refused to answer."""


class RateLimited(RowError):
    """The service of the model allowed no request for this row, however often it was tried."""


class Stalled(RowError):
    """The engine made no token for this row for too long, while it made some for others."""
