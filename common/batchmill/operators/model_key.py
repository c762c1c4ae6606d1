"""The name of a loaded model for coordinator and worker: a digest of an operator, its revision and its parameters."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill.operators.contract import OperatorInfo


def model_key(operator: OperatorInfo, params: Mapping[str, Any], revision: str | None = None) -> str:
    """Return 16 hexadecimal digits for an operator with these parameters, as they are in the job.

    revision: of the operator; None: the one that it announced. Omitted parameters count with the default that the
    operator announced. Values that only the operator's own code knows to be equal ("1" and 1) have different keys; a
    worker announces all keys that it has received.
    """
    identity = json.dumps([operator.name, revision or operator.revision, _complete(operator, params)], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def profile_name(operator: OperatorInfo, params: Mapping[str, Any]) -> str:
    """Return what the names begin with under which workers keep what they learn of batches, before the device.

    Values that only the operator's own code knows to be equal ("1" and 1) have different names.
    """
    digest = hashlib.sha256(json.dumps(_complete(operator, params), sort_keys=True).encode()).hexdigest()[:32]
    return f"{operator.name}:{operator.version}:{digest}:"


def _complete(operator: OperatorInfo, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters with the defaults that the operator announced."""
    fields: dict[str, Any] = operator.params_schema.get("properties", {})
    return {name: field["default"] for name, field in fields.items() if "default" in field} | dict(params)
