"""Logging of the services: one line a record, on standard error."""

from __future__ import annotations

import logging


def configure_logging(level: str) -> None:
    """Log to standard error, from `level` on; libraries only when something is wrong."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", force=True)
    for noisy in ("httpx", "urllib3", "kombu", "celery", "uvicorn", "filelock"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))
