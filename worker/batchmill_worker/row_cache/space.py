"""What tells results apart beside the rows: the operator, its code, its parameters, and what it has loaded."""

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
    """For each operator, by name, a digest of the file that it was loaded from; "" where there is none.

    To be made as soon as operators are loaded: the file may change while the process goes on with the old code.
    """
    return {definition.name: _code_digest(definition) for definition in definitions}


def space_of(definition: OperatorDefinition, params: Mapping[str, Any], code: str, fingerprint: str) -> bytes:
    """16 bytes that two jobs share exactly if equal rows have equal results in both.

    Raises `InvalidParams` for parameters that do not fit.
    """
    told = [
        definition.name,
        definition.version,
        definition.canonical(params),
        definition.expands,
        code,
        fingerprint,
        version("batchmill"),
    ]
    return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).digest()


def _code_digest(definition: OperatorDefinition) -> str:
    try:
        file = inspect.getsourcefile(inspect.unwrap(definition.make))
    except TypeError:  # it was made without a file
        file = None
    try:
        return hashlib.blake2b(Path(file).read_bytes(), digest_size=16).hexdigest() if file else ""
    except OSError:
        return ""
