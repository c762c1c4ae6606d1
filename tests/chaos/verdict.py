"""The verdict on a chaos run: every row against what it must be, every counter against what it counts."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from batchmill.errors import BatchmillError, NotFound
from batchmill.jobs.cost import sums, total_of
from support.cluster import KEYS, manifest

if TYPE_CHECKING:
    from pathlib import Path as File

    from batchmill.jobs.dead_letters import DeadLetter
    from chaos.plan import Path, Plan
    from chaos.workload import Submitted
    from support.cluster import Cluster


@dataclass(slots=True)
class Verdict:
    """What was found. A row is lost if nobody has it, doubled if it is there twice, wrong if it is another one."""

    rows: int = 0  # that came back
    rows_dead: int = 0
    rows_lost: int = 0
    rows_doubled: int = 0
    rows_wrong: int = 0
    wrongly_dead: int = 0  # given up on, and not to be; or of another error than theirs
    damage_unnoticed: int = 0  # results with a bit that changed, and were served
    broken: list[str] = field(default_factory=list)  # in words, whatever does not hold

    @property
    def holds(self) -> bool:
        """Whether all is as it must be."""
        faults = self.rows_lost + self.rows_doubled + self.rows_wrong + self.wrongly_dead + self.damage_unnoticed
        return faults == 0 and not self.broken

    def judge(self, job: Submitted, cluster: Cluster) -> None:
        """Look at one job that has ended."""
        try:
            results = cluster.ask(lambda client: client.job(job.id).to_table().to_pylist())
            dead = cluster.ask(lambda client: client.job(job.id).dead_letters())
        except BatchmillError as error:
            self.broken.append(f"{_name(job)}: cannot be read: {type(error).__name__}: {error}")
            return
        self._judge_state(job, results, dead)
        self._judge_rows(job, results, {_path(letter) for letter in dead})
        self._judge_dead(job, dead)
        if job.output is not None:
            self._judge_output(job, job.output, results)

    def expect(self, job: Submitted, what: str, found: object, wanted: object) -> None:
        """Note what is not as it must be."""
        if found != wanted:
            self.broken.append(f"{_name(job)}: {what} is {found}, not {wanted}")

    def _judge_state(self, job: Submitted, results: list[Any], dead: list[Any]) -> None:
        status = job.status
        assert status is not None
        stopped = {"cancel": "cancelled", "expire": "expired"}.get(job.plan.fate)
        if status.state.value not in ("completed", stopped):
            self.broken.append(f"{_name(job)}: ended {status.state}: {status.error}")
        if job.plan.is_counted_by_results:  # rows without a result are seen nowhere else
            self.expect(job, "rows_done", status.rows_done, len(results))
        elif job.is_completed:
            self.expect(job, "rows_done", status.rows_done, len(job.plan.kinds) - len(dead))
        self.expect(job, "rows_dead", status.rows_dead, len(dead))

    def _judge_rows(self, job: Submitted, results: list[dict[str, Any]], dead: set[Path]) -> None:
        by_path = [_by_path(job.plan, result) for result in results]
        paths = [path for path, _ in by_path]
        counted, expected = Counter(paths), job.plan.expected
        failed = job.plan.without_results(dead)
        self.rows += len(results)
        self.rows_dead += len(dead)
        self.rows_doubled += sum(times - 1 for times in counted.values()) + len(failed & counted.keys())
        wrong = [path for path, row in by_path if row != expected.get(path)]
        self.rows_wrong += len(wrong)
        self.expect(job, "the rows that are wrong", wrong[:5], [])
        if paths != sorted(paths):
            self.broken.append(f"{_name(job)}: the results are not in input order")
        if job.is_completed:
            lost = expected.keys() - counted.keys() - failed
            self.rows_lost += len(lost)
            self.expect(job, "the rows that nobody has", sorted(lost)[:5], [])

    def _judge_dead(self, job: Submitted, dead: list[DeadLetter]) -> None:
        wanted = job.dead()
        for letter in dead:
            if wanted.get((letter.stage, _path(letter))) != letter.error_type:
                self.wrongly_dead += 1
                self.broken.append(
                    f"{_name(job)}: row {_path(letter)} is dead of {letter.error_type}: {letter.message}"
                )
        if job.is_completed:
            self.expect(job, "the failed rows", sorted((one.stage, _path(one)) for one in dead), sorted(wanted))

    def _judge_output(self, job: Submitted, folder: File, results: list[dict[str, Any]]) -> None:
        found = manifest(folder)
        self.expect(job, "the manifest's rows", found["rows"], len(results))
        self.expect(job, "the manifest's failed rows", found["rows_dead"], job.status.rows_dead if job.status else None)
        files = sorted(path.name for path in folder.iterdir())
        wanted = sorted(part["name"] for part in found["parts"])
        self.expect(job, "the folder", files, wanted)
        if files != wanted:
            return
        parts = [_read(folder / part["name"]) for part in found["parts"]]
        self.expect(job, "rows of the parts", [len(rows) for rows in parts], [part["rows"] for part in found["parts"]])
        rows = [row for rows in parts for row in rows]
        if rows != results:
            self.broken.append(f"{_name(job)}: the parts differ from the results")


def judge_ledger(verdict: Verdict, jobs: list[Submitted], client: Any) -> None:
    """See that the ledger's counters equal what they count, and that nothing of ended jobs is alive."""
    for key in client.scan_iter(f"{KEYS.prefix}queued:*"):
        verdict.broken.append(f"{key} holds {client.zrange(key, 0, -1)}")
    for name, key in (("live jobs", KEYS.live_jobs()), ("leases", KEYS.leases())):
        if found := client.zrange(key, 0, -1):
            verdict.broken.append(f"{name} are left: {found}")
    for job in jobs:
        _judge_counters(verdict, job, client)
    _judge_costs(verdict, client)


def judge_deletion(
    verdict: Verdict, jobs: list[Submitted], cluster: Cluster, unknown: set[str], others: list[str]
) -> None:
    """Delete all jobs, and see that nothing of them is left in the ledger or the blob store.

    unknown: jobs that the ledger has lost, whose blobs are kept for a day. others: more jobs.
    """
    names = [*(name for job in jobs for name in (*job.replay_ids, job.id)), *others]
    for name in names:
        try:
            cluster.ask(lambda client: client.job(name).delete())  # noqa: B023  # called at once
        except NotFound as error:
            verdict.broken.append(f"{name} was gone before it was deleted: {error}")
    with cluster.redis() as client:
        keys = sorted(client.scan_iter("*"))
    ours = [key for key in keys if any(name in key for name in names) or ":idempotency:" in key]
    if ours:
        verdict.broken.append(f"keys of deleted jobs are left: {ours[:10]}")
    blobs = [name for name in cluster.stored("jobs") if name.split("/")[1] not in unknown]
    if blobs:
        verdict.broken.append(f"blobs of deleted jobs are left: {blobs[:10]}")


def _judge_counters(verdict: Verdict, job: Submitted, client: Any) -> None:
    key = KEYS.job(job.id)
    state, stages = client.hget(key, "state"), range(int(client.hget(key, "stage_count") or 1))
    dead = [_judge_stage(verdict, job, client, state, stage) for stage in stages]
    verdict.expect(job, "the sum by error", sum(map(int, client.hvals(KEYS.dead_counts(job.id)))), sum(dead))
    of_stages = [
        of_stage(job.id, stage)
        for stage in stages
        for of_stage in (
            KEYS.stage,
            KEYS.inline_results,
            KEYS.done,
            KEYS.borders,
        )  # borders: as the results they are of
    ]
    kept = (*of_stages, KEYS.dead_counts(job.id), KEYS.incomplete(job.id), KEYS.job_log(job.id))
    verdict.expect(job, "what is left of it", sorted(set(client.scan_iter(f"{_escaped(key)}*")) - {key, *kept}), [])


def _judge_stage(verdict: Verdict, job: Submitted, client: Any, state: str, stage: int) -> int:
    """See that the counters of a stage are what they count; how many of its rows are dead."""
    fields = client.hgetall(KEYS.stage(job.id, stage))
    settled = [value.split() for value in client.hvals(KEYS.done(job.id, stage))]
    leaves = [[int(number) for number in value[:5]] for value in settled if value[0] != "split"]
    counted = {
        "rows_done": sum(leaf[1] for leaf in leaves),
        "rows_dead": sum(leaf[2] for leaf in leaves),
        "shards_done": len(leaves),
        "shards_running": 0,
        "shards_queued": 0,
        "stragglers": 0,
    }
    if state == "completed":
        counted |= {"shards_live": 0, "rows_planned": counted["rows_done"] + counted["rows_dead"]}
        counted["shards_planned"] = len(leaves) - sum(value[0] == "split" for value in settled)
    for name, number in counted.items():
        verdict.expect(job, f"the ledger's {name} of stage {stage}", int(fields.get(name, 0)), number)
    return counted["rows_dead"]


def _judge_costs(verdict: Verdict, client: Any) -> None:
    """Whatever broke, each charge went once into the sums of its job, its tenant, its operator and its day."""
    fields = [
        client.hgetall(KEYS.stage(job_id, stage))
        for job_id in client.zrange(KEYS.jobs(), 0, -1)
        for stage in range(int(client.hget(KEYS.job(job_id), "stage_count") or 1))
    ]
    charged = total_of(
        spent
        for of_job in fields
        for spent in sums({name: amount for name, amount in of_job.items() if name.startswith("cost ")}).values()
    )
    for key in KEYS.costs():
        total = total_of(sums(client.hgetall(key)).values())
        if total != charged:
            verdict.broken.append(f"{key} adds up to {total}, the jobs to {charged}")
    if not charged.us.useful:
        verdict.broken.append("nothing was charged")


def _escaped(key: str) -> str:
    return "".join(f"\\{letter}" if letter in "[]*?\\" else letter for letter in key)


def _path(letter: DeadLetter) -> Path:
    return letter.path or (letter.index,)


def _by_path(plan: Plan, result: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The path of a result, and the result without it."""
    if not plan.is_chain:
        return (result["id"],), result
    names = ("source_row", "source_path")
    path = (result["source_row"], *result.get("source_path", ()))
    return path, {name: value for name, value in result.items() if name not in names}


def _name(job: Submitted) -> str:
    plan = job.plan
    way = f"{plan.source} to {plan.output or '-'}"
    if plan.is_chain:
        way += f", {' > '.join(plan.stage_names())}, fuse {plan.fuse}"
    return f"job {plan.number} ({job.id}, {plan.operator}, {len(plan.kinds)} rows, {way}, {plan.fate})"


def _read(path: File) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    return [json.loads(line) for line in path.read_text().splitlines()]
