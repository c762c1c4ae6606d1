"""One service that lasts for all hostile tests of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

LEASES = {"LEASE_TTL_S": 10, "LEADER_TTL_S": 5}  # those of a real deployment: recovery is measured


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Valkey, a coordinator and a supervisor with one slot, that a module's tests share."""
    with Cluster(tmp_path_factory.mktemp("stack"), "mill_operators", **LEASES) as cluster:
        yield cluster.start()
