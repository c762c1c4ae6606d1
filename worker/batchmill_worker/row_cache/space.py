"""What results depend on besides the rows: the operator, its code, its parameters, and what it has loaded."""

from __future__ import annotations

import hashlib
import inspect
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from batchmill.operators.contract import OperatorDefinition


def code_digests(definitions: Iterable[OperatorDefinition]) -> dict[str, str]:
    """Compute a digest of the source file of each operator, by name; "" where there is no file.

    Call it as soon as operators are loaded: the file may change while the process keeps running the old code.
    """
    return {definition.name: _code_digest(definition) for definition in definitions}


def space_of(definition: OperatorDefinition, params: Mapping[str, Any], code: str, fingerprint: str) -> bytes:
    """Return 16 bytes that are equal for two jobs exactly if equal rows have equal results in both.

    Raises `InvalidParams` for parameters that do not fit.
    """
    identity = [
        definition.name,
        definition.version,
        definition.canonical(params),
        definition.expands,
        code,
        fingerprint,
        version("batchmill"),
    ]
    return hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).digest()


def _code_digest(definition: OperatorDefinition) -> str:
    try:
        file = inspect.getsourcefile(inspect.unwrap(definition.make))
    except TypeError:  # it was defined without a file
        file = None
    try:
        return hashlib.blake2b(Path(file).read_bytes(), digest_size=16).hexdigest() if file else ""
    except OSError:
        return ""
