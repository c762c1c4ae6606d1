"""A service with several tenants, for tests that attack it. After each attack it must do a right job."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.attack import Mill
from support.cluster import TOKEN, Cluster
from support.operators.path import operators_on_path

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["operators_on_path"]

TOKENS = f"admin:{TOKEN},acme:acme-token-1,beta:beta-token-1,read:acme:acme-reader-1,read:admin:all-reader-1"
SETTINGS: dict[str, Any] = {
    "TOKENS": TOKENS,
    "METRICS_TOKEN": "metrics-token-1",
    "HEAD_TIMEOUT_S": 2,
    "MAX_CONNECTIONS": 150,
    "MAX_UPLOADS_PER_TENANT": 20,
    "HUB_MODELS": "acme/*",
    "MODELS": Path(__file__).parent.parent / "data" / "served_models.json",
}


@pytest.fixture(scope="session")
def mill_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mill]:
    folder = tmp_path_factory.mktemp("hostile")
    with Cluster(folder, "mill_operators", **SETTINGS, WEBHOOKS=_receivers(folder)) as cluster:
        cluster.start(coordinators=1, slots=(1,))
        yield Mill(cluster)


def _receivers(folder: Path) -> Path:
    """Write the receivers of webhooks: one that a name finds nowhere, for the tenant acme."""
    secret, receivers = folder / "secret", folder / "webhooks.toml"
    secret.write_text(f"whsec_{base64.b64encode(bytes(32)).decode()}\n")
    about = f'url = "https://receiver.invalid/"\nsecret_file = "{secret}"\ntenants = ["acme"]\n'
    receivers.write_text(f"[nowhere]\n{about}")
    return receivers


@pytest.fixture
def mill(mill_for_all: Mill) -> Iterator[Mill]:
    """The service; after the test it still does a right job."""
    yield mill_for_all
    mill_for_all.require_right_job()


@pytest.fixture
def own_mill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mill]:
    """A service that the test may break."""
    with Cluster(tmp_path_factory.mktemp("own"), "mill_operators", **SETTINGS) as cluster:
        cluster.start(coordinators=1, slots=(1,))
        yield Mill(cluster)
