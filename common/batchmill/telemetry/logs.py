"""Logging of the services, to standard error: a line a record for people, or a JSON object a line for machines.

Each line carries what `batchmill.telemetry.log_context` knows where it is logged. The secrets that the settings hold
are never written, whoever logs them.
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
HIDDEN = "***"
LEAST_SECRET_CHARS = 4
"""What is shorter is in half of all words, and no secret."""


def configure_logging(settings: ServiceSettings, *, worker: str = "", stream: TextIO | None = None) -> None:
    """Log to standard error, as the settings say; libraries only when something is wrong.

    worker: the name that every line of this process carries. What ends a thread or the process is logged too.
    stream: instead of standard error.
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
    """Tell whoever started a service something that does not depend on the level of its log."""
    if settings.log_format == "json":
        record = logging.LogRecord(f"batchmill.{name}", logging.INFO, "", 0, message, None, None)
        for handler in logging.getLogger().handlers:
            handler.emit(record)
    else:
        print(f"{name}: {message}", file=sys.stderr, flush=True)  # noqa: T201  # a line for a person


class ConsoleFormatter(logging.Formatter):
    """`2030-01-31 17:00:00,123 WARNING logger [job=… shard=…]: message`, a traceback on the lines after it."""

    def __init__(self, own: Mapping[str, str | int], secrets: Iterable[str]) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s%(about)s: %(message)s")
        self._own = own
        self._hide = _Hider(secrets)

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        told = " ".join(f"{name}={value}" for name, value in {**fields(), **self._own}.items())
        record.about = f" [{told}]" if told else ""
        return self._hide(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object: `time` (UTC), `level`, `logger`, `message`, the context's fields, and `error`, a traceback."""

    def __init__(self, own: Mapping[str, str | int], secrets: Iterable[str]) -> None:
        super().__init__()
        self._own = own
        self._hide = _Hider(secrets)

    def format(self, record: logging.LogRecord) -> str:
        """The object, on one line."""
        told: dict[str, str | int] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields(),
            **self._own,
        }
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        shown = {name: self._hide(value) if isinstance(value, str) else value for name, value in told.items()}
        return json.dumps(shown, ensure_ascii=False)


class _Hider:
    """Puts stars in the place of secrets, as they are and as URLs spell them."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = {secret for secret in secrets if len(secret) >= LEAST_SECRET_CHARS}
        spelled = known | {quote(secret, safe="") for secret in known}
        self._secrets = sorted(spelled, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text


def _log_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("batchmill").critical("the process ends by an error", exc_info=(kind, error, trace))


def _log_thread_end(told: threading.ExceptHookArgs) -> None:
    if told.exc_value is not None and not issubclass(told.exc_type, SystemExit):
        name = told.thread.name if told.thread else "unknown"
        trace = (told.exc_type, told.exc_value, told.exc_traceback)
        logging.getLogger("batchmill").critical("thread %s ends by an error", name, exc_info=trace)
