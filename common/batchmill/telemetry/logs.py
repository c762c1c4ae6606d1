"""Logging of the services, to standard error: one line of text or one JSON object per record.

Each record includes the fields of `batchmill.telemetry.log_context`. Secrets in the settings are replaced, whichever
code logs them.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO
from urllib.parse import quote

from batchmill.telemetry.log_context import fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from batchmill.settings import ServiceSettings

NOISY = ("httpx", "urllib3", "kombu", "celery", "uvicorn", "filelock")
REDACTED = "***"
MIN_SECRET_CHARS = 4
"""A shorter text is part of too many words to be replaced."""


def configure_logging(settings: ServiceSettings, *, worker: str = "", stream: TextIO | None = None) -> None:
    """Log to standard error, as the settings say; libraries log warnings and errors only.

    worker: the name to include in every record of this process. Errors that end a thread or the process are logged.
    stream: to log to instead of standard error.
    """
    own: dict[str, str | int] = {"worker": worker} if worker else {}
    kind = JsonFormatter if settings.log_format == "json" else ConsoleFormatter
    handler = logging.StreamHandler(stream)
    handler.setFormatter(kind(own, settings.secret_values()))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))
    if settings.log_format == "json":
        sys.excepthook = _log_end
        threading.excepthook = _log_thread_end


def announce(settings: ServiceSettings, name: str, message: str) -> None:
    """Print a message for the user who started a service, whatever its log level."""
    if settings.log_format == "json":
        record = logging.LogRecord(f"batchmill.{name}", logging.INFO, "", 0, message, None, None)
        for handler in logging.getLogger().handlers:
            handler.emit(record)
    else:
        print(f"{name}: {message}", file=sys.stderr, flush=True)  # noqa: T201  # a line for the user


class ConsoleFormatter(logging.Formatter):
    """`2030-01-31 17:00:00,123 WARNING logger [job=… shard=…]: message`, followed by the traceback."""

    def __init__(self, own: Mapping[str, str | int], secrets: Iterable[str]) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s%(about)s: %(message)s")
        self._own = own
        self._redact = SecretRedactor(secrets)

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        about = " ".join(f"{name}={value}" for name, value in {**fields(), **self._own}.items())
        record.about = f" [{about}]" if about else ""
        return self._redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object: `time` (UTC), `level`, `logger`, `message`, the context's fields, and `error`, a traceback."""

    def __init__(self, own: Mapping[str, str | int], secrets: Iterable[str]) -> None:
        super().__init__()
        self._own = own
        self._redact = SecretRedactor(secrets)

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON object, on one line."""
        values: dict[str, str | int] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields(),
            **self._own,
        }
        if record.exc_info:
            values["error"] = self.formatException(record.exc_info)
        shown = {name: self._redact(value) if isinstance(value, str) else value for name, value in values.items()}
        return json.dumps(shown, ensure_ascii=False)


class SecretRedactor:
    """Replaces secrets by stars, both plain and URL-encoded."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = {secret for secret in secrets if len(secret) >= MIN_SECRET_CHARS}
        spelled = known | {quote(secret, safe="") for secret in known}
        self._secrets = sorted(spelled, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """Return a text without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return text


def _log_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("batchmill").critical("an error ends the process", exc_info=(kind, error, trace))


def _log_thread_end(hook: threading.ExceptHookArgs) -> None:
    if hook.exc_value is not None and not issubclass(hook.exc_type, SystemExit):
        name = hook.thread.name if hook.thread else "unknown"
        trace = (hook.exc_type, hook.exc_value, hook.exc_traceback)
        logging.getLogger("batchmill").critical("an error ends thread %s", name, exc_info=trace)
