"""What results depend on besides the rows: the operator, its code, its parameters, and what it has loaded."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill.operators.contract import OperatorDefinition


def space_of(definition: OperatorDefinition, params: Mapping[str, Any], fingerprint: str) -> bytes:
    """Return 16 bytes that are equal for two jobs exactly if equal rows have equal results in both.

    Raises `InvalidParams` for parameters that do not fit.
    """
    identity = [
        definition.name,
        definition.version,
        definition.canonical(params),
        definition.expands,
        definition.code,
        fingerprint,
        version("batchmill"),
    ]
    return hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).digest()
