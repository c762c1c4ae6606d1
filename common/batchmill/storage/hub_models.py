"""Which models of the Hugging Face hub jobs may name."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from batchmill.errors import InvalidParams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ANY = ("*",)
MODEL_FORMAT = "batchmill-model"
"""The JSON Schema `format` of a parameter that names a model: a hub id, a folder, or `package:NAME`."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)


class HubModels:
    """The hub ids that are allowed, as patterns: `intfloat/e5-small`, `sentence-transformers/*`."""

    def __init__(self, patterns: Sequence[str] = ANY) -> None:
        self._patterns = tuple(patterns)

    def check(self, model: str) -> None:
        """Raise `InvalidParams` for a hub id that is not allowed; folders and packages pass."""
        if not is_hub_id(model) or any(fnmatchcase(model, pattern) for pattern in self._patterns):
            return
        raise InvalidParams(
            f"the hub model {model!r} is not among those this service may load.",
            hint=f"Use one of: {', '.join(self._patterns) or '(none)'}; or extend BATCHMILL_HUB_MODELS.",
            model=model,
        )

    def check_params(self, params_schema: Mapping[str, Any], params: Mapping[str, Any]) -> None:
        """Check every parameter that names a model by its schema, its default included."""
        for name, about in params_schema.get("properties", {}).items():
            value = params.get(name, about.get("default"))
            if isinstance(value, str) and MODEL_FORMAT in _formats(about):
                self.check(value)


def is_hub_id(model: str) -> bool:
    """Whether the text has the form of a hub id."""
    return _HUB_ID.fullmatch(model) is not None


def _formats(about: Mapping[str, Any]) -> set[str]:
    return {str(option.get("format")) for option in (about, *about.get("anyOf", ()))}
