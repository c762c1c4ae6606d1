"""What a row costs in a stage, as workers have measured it: what decides which stages run together."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchmill.jobs.job import StageSpec


def stage_cost_name(stage: StageSpec, version: str) -> str:
    """Name the measured cost of a stage among the profiles. version: of its operator."""
    text = json.dumps(stage.params, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    return f"cost:{stage.pool}:{stage.operator}:{version}:{digest}"
