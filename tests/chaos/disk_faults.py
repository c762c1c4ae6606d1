"""Disks without room: that of Valkey, and that of the blob store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from chaos.faults import DISK, STORE, FaultSet, Struck

if TYPE_CHECKING:
    import random

    from chaos.faults import Repairs
    from support.cluster import Cluster
    from support.small_disk import SmallDisk

FULL_S = 3.0


class DiskFaults(FaultSet):
    """Those of two disks: the blob store's and Valkey's."""

    def __init__(
        self, cluster: Cluster, chance: random.Random, repairs: Repairs, *, blobs: SmallDisk, store: SmallDisk
    ) -> None:
        super().__init__(cluster, chance, repairs)
        self._blobs = blobs
        self._store = store

    def _do_full_blob_disk(self) -> Struck | None:
        return self._fill("full_blob_disk", DISK, self._blobs)

    def _do_full_store_disk(self) -> Struck | None:
        """Writes are refused. Not of a replica that took over: Valkey 9.1 then damages its file, and cannot load it.

        Nor while snapshots fail, for that fault ends with one that is written.
        """
        if self.repairs.lasts("disk_fault"):
            return None
        with self.cluster.redis() as client:
            was_replica = client.info("replication")["second_repl_offset"] >= 0
        return None if was_replica else self._fill("full_store_disk", STORE, self._store)

    def _fill(self, kind: str, target: str, disk: SmallDisk) -> Struck | None:
        if self.repairs.lasts(kind):
            return None
        disk.fill()
        return self.repairs.after(FULL_S, Struck(kind, target, "its disk", time.time()), disk.free)
