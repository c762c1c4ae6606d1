"""OpenVINO, imported without what reports its use to its makers."""

from __future__ import annotations

import sys
from typing import Any


def library() -> Any:
    """Import OpenVINO, without what reports its use to its makers: from forks of this process, whatever runs in it."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # cannot be imported: it has a stand-in
    import openvino

    return openvino


def computes_in(precision: str) -> bool:
    """Return whether this processor computes in a number format without converting it to another."""
    return precision != "bfloat16" or "BF16" in library().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
