"""Bits that change where data is stored: what is damaged is noticed, named and computed again, and never served."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from batchmill.errors import BatchmillError, DamagedData
from batchmill.row_cache import FOLDER
from chaos.faults import DATA, FaultSet, Struck

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from chaos.faults import Repairs
    from chaos.verdict import Verdict
    from chaos.workload import Submitted, Users
    from support.cluster import Cluster

SAFE_S = 10.0  # a job that ended so long ago is not changed by a failover to a replica that is behind
REDO_S = 60.0


class DamageFaults(FaultSet):
    """Bit flips in results of jobs that have ended, and in what the service keeps to save work."""

    def __init__(self, cluster: Cluster, chance: random.Random, repairs: Repairs, users: Users) -> None:
        super().__init__(cluster, chance, repairs)
        self._users = users

    def _do_flip_bit_of_results(self) -> Struck | None:
        """Of a job whose results nobody has edited: redo gives what the source gives."""
        before = time.monotonic() - SAFE_S
        ended = [
            job
            for job in list(self._users.jobs)
            if job.is_completed and job.changed_at < before and not job.plan.is_repaired and not job.plan.is_chain
        ]
        found = [(job, path) for job in ended if job.id not in self._users.damaged for path in self._parts(job)]
        if not found:
            return None
        job, path = self.chance.choice(found)
        self._users.damaged[job.id] = path
        return self._flip("flip_bit_of_results", path)

    def _do_flip_bit_of_row_cache(self) -> Struck | None:
        """Its rows are computed as if they were not there."""
        return self._flip_any("flip_bit_of_row_cache", list((self.cluster.blobs / FOLDER).glob("*.arrow")))

    def _do_flip_bit_of_checkpoint(self) -> Struck | None:
        """The next attempt computes all rows."""
        return self._flip_any("flip_bit_of_checkpoint", list(self.cluster.blobs.glob("jobs/*/checkpoints/*/*")))

    def _parts(self, job: Submitted) -> list[Path]:
        folder = job.output or self.cluster.blobs / "jobs" / job.id / "results" / "0"
        return sorted(folder.glob("part-*"))

    def _flip_any(self, kind: str, paths: list[Path]) -> Struck | None:
        return self._flip(kind, self.chance.choice(sorted(paths))) if paths else None

    def _flip(self, kind: str, path: Path) -> Struck | None:
        try:
            with path.open("r+b") as file:
                place = self.chance.randrange(path.stat().st_size)
                file.seek(place)
                byte = file.read(1)[0]
                file.seek(place)
                file.write(bytes([byte ^ 1 << self.chance.randrange(8)]))
        except FileNotFoundError:  # it was deleted just now
            return None
        return Struck(kind, DATA, f"byte {place} of {path.name}", time.time())


def judge_damage(verdict: Verdict, users: Users, cluster: Cluster) -> None:
    """See that results with a bit that changed are refused by name; then let them be computed again."""
    for job in users.jobs:
        if (path := users.damaged.get(job.id)) is None:
            continue
        try:
            cluster.ask(lambda client: client.job(job.id).to_table())  # noqa: B023  # called at once
            verdict.damage_unnoticed += 1
        except DamagedData as error:
            if path.name not in error.message:
                verdict.broken.append(f"{job.id}: the damage of {path.name} is called: {error.message}")
        try:
            redo_id = cluster.ask(lambda client: client.job(job.id).redo().id)  # noqa: B023  # called at once
            job.replay_ids.append(redo_id)
            cluster.ask(lambda client: client.job(redo_id).wait(timeout=REDO_S))  # noqa: B023  # called at once
            job.status = cluster.ask(lambda client: client.job(job.id).status())  # noqa: B023  # called at once
        except (BatchmillError, TimeoutError) as error:
            verdict.broken.append(f"{job.id}: {path.name} cannot be done again: {type(error).__name__}: {error}")
