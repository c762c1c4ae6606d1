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
    fields: dict[str, Any] = operator.params_schema.get("properties", {})
    defaults = {name: field["default"] for name, field in fields.items() if "default" in field}
    identity = json.dumps([operator.name, revision or operator.revision, defaults | dict(params)], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:16]
