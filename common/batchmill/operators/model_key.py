"""What names a loaded model on both sides of the broker: a digest of an operator, its version and its parameters."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill.operators.contract import OperatorInfo


def model_key(operator: OperatorInfo, params: Mapping[str, Any]) -> str:
    """16 hexadecimal digits for an operator with these parameters, as a job spells them.

    Parameters that are left out count with the default that the operator announced. Spellings that only the
    operator's own code knows to be equal ("1" and 1) have keys of their own; a worker answers to all that it has met.
    """
    fields: dict[str, Any] = operator.params_schema.get("properties", {})
    defaults = {name: field["default"] for name, field in fields.items() if "default" in field}
    told = json.dumps([operator.name, operator.version, defaults | dict(params)], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]
