"""Services of their own for tests that break them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.cluster import Cluster
from support.operators.path import operators_on_path
from support.stream_fixtures import kafka_server, nats_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["kafka_server", "nats_server", "operators_on_path"]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Makes a cluster over a folder of its own; ended with the test."""
    made: list[Cluster] = []

    def make(**settings: Any) -> Cluster:
        made.append(Cluster(tmp_path / f"cluster-{len(made)}", "mill_operators", **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()
