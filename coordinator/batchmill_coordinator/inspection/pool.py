"""The inspectors of a coordinator."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from batchmill.processes.inspectors import InspectorPool

if TYPE_CHECKING:
    from batchmill.settings import CoordinatorSettings

_SECRETS = ("BATCHMILL_TOKENS", "BATCHMILL_METRICS_TOKEN", "BATCHMILL_REDIS_URL", "BATCHMILL_SECRETS_DIR")
_UNSENT = {"tokens", "metrics_token", "redis_url", "secrets_dir"}


def inspector_pool(settings: CoordinatorSettings) -> InspectorPool:
    """Return a pool, not started, of inspectors that know the settings, of the secrets only those of the storage."""
    return InspectorPool(
        "batchmill_coordinator.inspection",
        {
            "memory_mb": settings.inspection_memory_mb,
            "coordinator": settings.model_dump(mode="json", exclude=_UNSENT),
        },
        {name: value for name, value in os.environ.items() if name not in _SECRETS},
        size=settings.inspectors,
        timeout_s=settings.inspection_timeout_s,
    )
