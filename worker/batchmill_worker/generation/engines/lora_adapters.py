"""LoRA adapters: folders with what is added to the weights of a model, in the form of the library `peft`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batchmill.errors import InvalidParams
from batchmill_worker.models.model_source import content_digest, refuse_outer_links

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill.storage.locations import Locations

CONFIG = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """An adapter that rows may name. rank: of its matrices. digest: of its files."""

    name: str
    folder: str
    rank: int
    digest: str


def locate_adapters(operator: str, adapters: Mapping[str, str], locations: Locations) -> tuple[LoraAdapter, ...]:
    """Find the folders of adapters. Raises `InvalidParams` for one that is none, or outside of the roots."""
    return tuple(_locate(operator, name, path, locations) for name, path in adapters.items())


def _locate(operator: str, name: str, path: str, locations: Locations) -> LoraAdapter:
    location = locations.resolve(path, error=InvalidParams)
    config = Path(location.path) / CONFIG
    try:
        if not location.is_local:
            raise ValueError("it is not on the worker's machine")
        rank = int(json.loads(config.read_text())["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidParams(
            f"operator {operator!r}: the adapter {name!r} cannot be read from {location.path}: {error}.",
            hint=f"Expected the folder of a LoRA adapter, with {CONFIG} and its rank in it.",
            operator=operator,
            parameter="adapters",
        ) from error
    refuse_outer_links(location.path, locations)
    return LoraAdapter(name, location.path, rank, content_digest(location.path))
