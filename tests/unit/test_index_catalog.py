"""The catalog of indexes, page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchmill.jobs.index_status import IndexStatus
from batchmill.jobs.sink import SinkSpec
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations
from batchmill_coordinator.indexes.catalog import IndexCatalog

if TYPE_CHECKING:
    from pathlib import Path

NAMES = [("acme", f"a{n:02}") for n in range(25)] + [("acme", "a.b"), ("acme-two", "x"), ("zoo", "a00")]


@pytest.fixture
def catalog(tmp_path: Path) -> IndexCatalog:
    found = IndexCatalog(BlobStore.open(str(tmp_path), Locations(UNRESTRICTED)))
    for tenant, name in NAMES:
        sink = SinkSpec(to=f"/data/{name}.lance")
        record = IndexStatus(
            name=name, tenant=tenant, sink=sink, rows=1, dimension=2, index_kind="none", job="job-1", published_at=1.0
        )
        found.write(record)
    return found


@pytest.mark.parametrize("limit", [1, 7, 28, 100])
def test_all_indexes_are_on_one_page_each_in_order(catalog: IndexCatalog, limit: int) -> None:
    found: list[tuple[str, str]] = []
    after: str | None = None
    pages = 0
    while True:
        page, after = catalog.page(catalog.tenants(), after, limit)
        assert len(page) <= limit
        found += [(one.tenant, one.name) for one in page]
        pages += 1
        if after is None:
            break
    assert found == sorted(NAMES)
    assert pages == -(-len(NAMES) // limit)


def test_a_page_of_one_tenant_has_its_indexes_only(catalog: IndexCatalog) -> None:
    page, after = catalog.page(["zoo"], None, 10)
    assert [(one.tenant, one.name) for one in page] == [("zoo", "a00")]
    assert after is None
    assert catalog.page(["nobody"], None, 10) == ([], None)


def test_the_next_page_is_found_when_the_last_index_of_a_page_was_forgotten(catalog: IndexCatalog) -> None:
    page, after = catalog.page(["acme"], None, 5)
    catalog.forget("acme", page[-1].name)
    following, _ = catalog.page(["acme"], after, 1)
    assert following[0].name == sorted(name for tenant, name in NAMES if tenant == "acme")[5]
