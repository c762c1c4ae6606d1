"""The catalog of indexes, kept in the blob store: a record of each that was published, and a claim of each target.

A claim says which tenant a target belongs to, and which job writes it: two jobs at the same time would each take the
other's rows for what they replace.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from batchmill.errors import NotFound
from batchmill.jobs.frozen import Frozen
from batchmill.jobs.index_status import IndexStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batchmill.storage.blobs import BlobStore

RECORDS, CLAIMS = "indexes", "index-claims"
READ_AT_ONCE = 16


class Claim(Frozen):
    """Who writes a target. stage: of the job, that makes the vectors; None: they come with the rows."""

    tenant: str
    name: str
    job: str
    origin: str  # the job itself, or the one that it replays
    stage: int | None = None


class IndexCatalog:
    """Records and claims. Thread-safe; each blob is replaced as a unit."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    def read(self, tenant: str, name: str) -> IndexStatus:
        """Return the record of an index. Raises `NotFound`."""
        try:
            return IndexStatus.model_validate_json(self._blobs.get(_record(tenant, name)).to_pybytes())
        except NotFound:
            raise NotFound(
                f"there is no index {name!r}.",
                hint="`batchmill indexes` lists those that jobs have published.",
                index=name,
            ) from None

    def find(self, tenant: str, name: str) -> IndexStatus | None:
        """Return the record of an index; None if there is none."""
        try:
            return self.read(tenant, name)
        except NotFound:
            return None

    def page(self, tenants: Iterable[str], after: str | None, limit: int) -> tuple[list[IndexStatus], str | None]:
        """Return indexes of tenants, by tenant and name, and what is to be given as `after` for the next ones.

        Only the records of the page are read, several at a time. Rejected: a blob with all records of a tenant, which
        jobs that end and users who forget an index would overwrite for each other.
        """
        places = sorted((tenant, name) for tenant in tenants for name in self._names(tenant))
        start = 0 if after is None else bisect_right(places, _place_of(after))
        chosen = places[start : start + limit]
        with ThreadPoolExecutor(READ_AT_ONCE) as threads:
            found = list(threads.map(lambda place: self.find(*place), chosen))
        following = "/".join(chosen[-1]) if start + limit < len(places) else None
        return [record for record in found if record is not None], following

    def _names(self, tenant: str) -> Iterator[str]:
        blobs = self._blobs.list(f"{RECORDS}/{tenant}")
        return (blob.rpartition("/")[2].removesuffix(".json") for blob in blobs)

    def tenants(self) -> list[str]:
        """Return the tenants that have indexes."""
        return list(self._blobs.folders(RECORDS))

    def write(self, record: IndexStatus) -> None:
        """Write the record of an index, in place of an earlier one. Raises `StorageError`."""
        self._blobs.put(_record(record.tenant, record.name), record.model_dump_json().encode())

    def forget(self, tenant: str, name: str) -> None:
        """Delete the record of an index; the store keeps its rows. Raises `NotFound`."""
        self.read(tenant, name)
        self._blobs.delete(_record(tenant, name))

    def claim_of(self, target: str) -> Claim | None:
        """Return the claim of a target; None: nobody has written it."""
        try:
            return Claim.model_validate_json(self._blobs.get(_claim(target)).to_pybytes())
        except NotFound:
            return None

    def put_claim(self, target: str, claim: Claim, before: Claim | None) -> bool:
        """Claim a target in place of `before`; return False if somebody was faster."""
        data = claim.model_dump_json().encode()
        if before is None:
            return self._blobs.put_new(_claim(target), data)
        self._blobs.put(_claim(target), data)
        return True

    def take_back(self, target: str, claim: Claim, before: Claim | None) -> None:
        """Undo `put_claim`, unless another claim has followed."""
        if self.claim_of(target) != claim:
            return
        if before is None:
            self._blobs.delete(_claim(target))
        else:
            self._blobs.put(_claim(target), before.model_dump_json().encode())


def _place_of(cursor: str) -> tuple[str, str]:
    tenant, _, name = cursor.partition("/")
    return tenant, name


def _record(tenant: str, name: str) -> str:
    return f"{RECORDS}/{tenant}/{name}.json"


def _claim(target: str) -> str:
    return f"{CLAIMS}/{target_key(target)}.json"


def target_key(target: str) -> str:
    """Return a name of a target that is short and fits everywhere."""
    return hashlib.blake2b(target.encode(), digest_size=16).hexdigest()
