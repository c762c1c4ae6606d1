"""Flower's server, set up for Batchmill."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from celery import Celery
from flower.app import Flower
from flower.options import options
from flower.urls import settings as application_settings

from batchmill.broker import celery_settings
from batchmill.errors import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from batchmill.settings import FlowerSettings

INSPECT_TIMEOUT_MS = 3_000
"""How long workers may take to answer; one that computes is slower than Flower's own second."""
FORGET_OFFLINE_S = 3_600
"""Workers are named after their process, so those that were replaced would pile up."""


def serve_flower(settings: FlowerSettings, on_ready: Callable[[str], None], *, any_port: bool = False) -> None:
    """Serve until SIGTERM or SIGINT; `on_ready` is called with the URL once requests are answered.

    any_port: whether to take any free port if that of the settings is taken.

    Raises `InvalidSettings` when the address cannot be had.
    """
    os.environ.pop("FLOWER_UNAUTHENTICATED_API", None)  # it opens the API, whatever the options say
    _quieten_access_log()
    for name, value in flower_options(settings).items():
        setattr(options, name, value)
    flower = Flower(capp=_celery_app(settings), options=options, **_application_settings(settings))
    on_ready(f"http://{settings.flower_host}:{_listen(flower, settings, any_port=any_port)}")
    signal.signal(signal.SIGTERM, _leave)
    try:
        flower.start()
    except (KeyboardInterrupt, SystemExit):
        flower.stop()


def flower_options(settings: FlowerSettings) -> dict[str, Any]:
    """Flower's own options, by its names."""
    return {
        "address": settings.flower_host,
        "port": settings.flower_port,
        "basic_auth": list(settings.flower_users),
        "max_tasks": settings.flower_max_tasks,
        "read_only": settings.flower_read_only,
        "url_prefix": settings.flower_url_prefix,
        "persistent": False,
        "inspect_timeout": float(INSPECT_TIMEOUT_MS),
        "purge_offline_workers": FORGET_OFFLINE_S,
        "tasks_columns": "name,args,state,retries,received,runtime,worker,result,exception,uuid",
    }


def _celery_app(settings: FlowerSettings) -> Celery:
    app = Celery("batchmill", set_as_current=False)
    app.conf.update(celery_settings(settings))
    return app


def _application_settings(settings: FlowerSettings) -> dict[str, Any]:
    if not settings.flower_url_prefix:
        return dict(application_settings)
    prefix = f"/{settings.flower_url_prefix.strip('/')}"
    moved = {name: f"{prefix}{application_settings[name]}" for name in ("login_url", "static_url_prefix")}
    return {**application_settings, **moved}


def _listen(flower: Flower, settings: FlowerSettings, *, any_port: bool) -> int:
    try:
        return int(flower.start_http_server())
    except OSError as error:
        if any_port and options.port and error.errno == errno.EADDRINUSE:
            options.port = 0
            return int(flower.start_http_server())
        raise InvalidSettings(
            f"cannot listen on {settings.flower_host}:{settings.flower_port} ({error.strerror or error}).",
            hint="Another service may have the port: choose another with BATCHMILL_FLOWER_PORT, or 0 for any free one.",
        ) from error


def _quieten_access_log() -> None:
    access = logging.getLogger("tornado.access")
    access.addHandler(logging.NullHandler())
    access.propagate = False


def _leave(_: int, __: FrameType | None) -> None:
    sys.exit(0)
