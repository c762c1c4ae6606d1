"""Merges the results of a replay into a job of several stages, by the paths of rows.

A replay of stage s runs the stages from s on, over failed rows of s as that stage got them. Merging it has four steps,
each of which may be done again after it was cut short:

1. Its results are put into the parts of the job's last stage, in the order of paths; a path that is there already is
   left out. The part for a row is the last one that begins before it, found by bisection.
2. What it has settled in the stages behind s becomes one more shard of each, once: rows that are done there, and those
   that failed there, which are dead letters of the job from then on.
3. The rows of s that did not fail again are no failed rows any more; the others keep their dead letter, with their
   attempts added up.
4. The caller replaces the manifest of the output.

Stages whose results are kept get those of the replay, too, so that a job that is run over them has all rows.

A replay of a stage before one that gathers ends before that one, and its results go to the source rows that wait there
(`gathered_merger`), instead of the first step.

A replay is merged as a unit or not at all, and then leaves its rows among the dead letters. One that did not come to
its end has rows that are done in s and in no later stage yet: they would be lost. Of two replays with a row of s in
common, the second would count it twice behind s.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.columns.lineage import in_path_order, paths_of
from batchmill.errors import Conflict, NotFound, StorageError
from batchmill.jobs.dead_letters import DeadRows
from batchmill.jobs.shard import ShardId
from batchmill.jobs.stages import last_stage, stage_called
from batchmill.ledger.formats.settlement import Settled
from batchmill.ledger.scripting.calls import AdoptShardAnswer
from batchmill.stage_inputs.gathered_results import borders_of
from batchmill.stage_results import joined, settled_shards
from batchmill_coordinator.results.gathered_merger import as_dead_rows, complete
from batchmill_coordinator.results.job_results import JobResults
from batchmill_coordinator.results.outputs import results_of
from batchmill_coordinator.results.replay_outcomes import NO_OUTCOMES, ReplayedShard, ReplayReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchmill.columns.lineage import Path
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.record import StageRecord
    from batchmill.workspace import Workspace
    from batchmill_coordinator.results.dead_rows import DeadRowStore
    from batchmill_coordinator.results.replay_outcomes import Rows


class ChainMerger:
    """Merges replays of jobs of several stages, as the leader."""

    def __init__(self, ledger: Ledger, workspace: Workspace, dead_rows: DeadRowStore) -> None:
        self._ledger = ledger
        self._workspace = workspace
        self._dead_rows = dead_rows

    def merge(self, job: JobResults, replay: JobRecord, original_rows: Rows, epoch: int) -> None:
        """Merge everything that a replay has settled, but for the manifest.

        original_rows: for each row of the replay its index in the input of the job's stage.

        Raises `Conflict` if some of its rows were replayed meanwhile, `NotFound` or `StorageError`.
        """
        if not replay.is_settled:
            return
        first = stage_called(job.record.spec, replay.spec.first.title)
        self._require_no_overlap(job.record, first, replay, original_rows)
        for number in range(len(replay.stages)):
            self._keep(job, first + number, replay, number, epoch)
        gathering = first + len(replay.stages)
        if gathering < len(job.record.stages):
            self._complete(job, gathering, replay, epoch)
            for number in range(1, len(replay.stages)):
                self._adopt(job, first + number, replay, number, [], epoch)
            self._settle(job, first, replay, original_rows, [], epoch)
            return
        parts = _Parts(self._ledger, job)
        if parts.is_empty:
            left = [table for table in self._results(replay) if table.num_rows]
        else:
            left = []
            for at, tables in parts.places_of(self._results(replay)):
                self._insert(job, parts, at, tables, epoch)
        for number in range(1, len(replay.stages)):
            is_last = number == len(replay.stages) - 1
            self._adopt(job, first + number, replay, number, left if is_last else [], epoch)
        self._settle(job, first, replay, original_rows, left if len(replay.stages) == 1 else [], epoch)

    def _require_no_overlap(self, job: JobRecord, stage: int, replay: JobRecord, original_rows: Rows) -> None:
        """Raise `Conflict` if a row that this replay has brought into a later stage is no failed row any more."""
        brought = [stage + number for number, one in enumerate(replay.stages) if number and _has_settled(one)]
        if not brought or any(self._ledger.results.has_adopted(job.id, number, replay.id) for number in brought):
            return  # it was merged up to there before
        gone = set(original_rows.tolist())
        for shard in self._dead_rows.shards(job, stage):
            gone -= self._dead_rows.read(job.id, shard).indices
        if gone:
            raise Conflict(
                f"{len(gone):,} of its rows, of {job.id}, were replayed by another job meanwhile; nothing of this "
                "replay is merged.",
                hint="Replay the rows again that are still among the dead letters.",
                job=job.id,
                rows=sorted(gone)[:100],
            )

    def _keep(self, job: JobResults, stage: int, replay: JobRecord, number: int, epoch: int) -> None:
        """Put what the stage `number` of a replay has made into what is kept of a stage between two others."""
        spec = job.record.spec
        if stage == last_stage(spec) or not spec.stages[stage].keep:
            return
        kept = JobResults(job.record, stage, self._workspace.open_results(job.record.id, spec, stage), None)
        parts = _Parts(self._ledger, kept)
        results = self._results(replay, number)
        if parts.is_empty:
            tables = [table for table in results if table.num_rows]
            shards = settled_shards(self._ledger, job.record, stage)
            places = [part for shard in shards for part in shard.parts] if tables else []
            for part in places[:1]:
                self._replace(kept, part, _in_order(tables), epoch)
            return
        for at, tables in parts.places_of(results):
            self._insert(kept, parts, at, tables, epoch)

    def _complete(self, job: JobResults, stage: int, replay: JobRecord, epoch: int) -> None:
        """Give the results of a replay to the source rows that a stage could not gather without them."""

        def replace_dead(shard: Settled, dead: DeadRows) -> Settled:
            after = replace(shard, token=shard.token + 1, expanded_to=shard.results)
            after = self._with_results(job, shard, after, [])
            self._dead_rows.write(job.record.id, after, dead)
            return after if self._ledger.results.replace_part(job.record.id, shard, after, {}, epoch) else shard

        left = complete(self._dead_rows, job.record, stage, self._results(replay), replace_dead)
        if left.num_rows:
            own = self._ledger.jobs.read(job.record.id).stages[stage]
            dead = as_dead_rows(left, stage, own.spec.operator, own.rows_planned, replay.created_at / 1000)
            adopted = Settled(stage, ShardId((own.shards_planned,)), 1, 0, len(dead.letters), 0, own.rows_planned, 0)
            self._adopt_shard(job, own, replay, adopted, dead, epoch)

    def _results(self, replay: JobRecord, number: int | None = None) -> Iterator[pa.Table]:
        """Yield the results of a stage of a replay; without a number, of the last one."""
        stage = last_stage(replay.spec) if number is None else number
        store = self._workspace.open_results(replay.id, replay.spec, stage)
        for shard in settled_shards(self._ledger, replay, stage):
            for part in shard.parts:
                if part.results:
                    yield from results_of(self._ledger, replay, stage, store, [part])

    def _insert(self, job: JobResults, parts: _Parts, at: int, tables: Sequence[pa.Table], epoch: int) -> None:
        """Put rows into a part, those left out that it has."""
        before, old = parts[at], parts.read(at)
        known = set(paths_of(old))
        new = [table.filter(pa.array([path not in known for path in paths_of(table)])) for table in tables]
        if not any(table.num_rows for table in new):
            return
        parts[at] = self._replace(job, before, _in_order([old, *new]), epoch)

    def _replace(self, job: JobResults, before: Settled, table: pa.Table, epoch: int) -> Settled:
        """Give a shard other results; return it as it is then."""
        after = self._write(job, before, table)
        if not self._ledger.results.replace_part(job.record.id, before, after, {}, epoch):
            return before
        if job.record.spec.is_gathered_behind(job.stage):
            self._ledger.results.note_borders(job.record.id, after, borders_of(table))
        return after

    def _write(self, job: JobResults, before: Settled, table: pa.Table) -> Settled:
        """Write a part, and the dead letters beside it, for the next token of its shard."""
        after = replace(before, token=before.token + 1, expanded_to=table.num_rows)
        after = replace(after, nbytes=job.write(after.shard_id, after.token, table))
        if before.rows_dead:
            self._dead_rows.write(job.record.id, after, self._dead_rows.read(job.record.id, before))
        if not job.is_folder:  # what was replaced stays until it is replaced again, as for any replay
            job.results.delete(before.shard_id, before.token - 1)
        return after

    def _adopt(
        self, job: JobResults, stage: int, replay: JobRecord, number: int, results: Sequence[pa.Table], epoch: int
    ) -> None:
        """Add what the stage `number` of a replay has settled to a stage, as one more shard. results: those it gets."""
        dead = [self._dead_rows.read(replay.id, shard) for shard in self._dead_rows.shards(replay, number)]
        if not (results or _has_settled(replay.stages[number])):
            return
        own = self._ledger.jobs.read(job.record.id).stages[stage]
        letters = [letter for one in dead for letter in one.letters]
        done, shard_id = replay.stages[number].rows_done, ShardId((own.shards_planned,))
        adopted = Settled(stage, shard_id, 1, done, len(letters), 0, own.rows_planned, expanded_to=0)
        if results:
            table = _in_order(results)
            adopted = replace(adopted, nbytes=job.write(adopted.shard_id, 1, table), expanded_to=table.num_rows)
        named = tuple(
            letter.model_copy(update={"stage": stage, "index": adopted.first_row + place, "replay": replay.id})
            for place, letter in enumerate(letters)
        )
        rows = pa.concat_tables([one.rows for one in dead], promote_options="permissive") if dead else pa.table({})
        self._adopt_shard(job, own, replay, adopted, DeadRows(named, rows), epoch)

    def _adopt_shard(
        self, job: JobResults, own: StageRecord, replay: JobRecord, adopted: Settled, dead: DeadRows, epoch: int
    ) -> None:
        if dead.letters:
            self._dead_rows.write(job.record.id, adopted, dead)
        by_type = Counter(letter.error_type for letter in dead.letters)
        match self._ledger.results.adopt_shard(job.record.id, own, replay.id, adopted, by_type, epoch):
            case AdoptShardAnswer.OK | AdoptShardAnswer.DEPOSED:
                return
            case AdoptShardAnswer.KNOWN:
                self._dead_rows.delete(job.record.id, adopted)
                if adopted.results:
                    job.results.delete(adopted.shard_id, 1)
            case AdoptShardAnswer.MOVED:
                raise StorageError(f"job {job.record.id} was changed while a replay was merged; it is merged again.")

    def _settle(
        self,
        job: JobResults,
        stage: int,
        replay: JobRecord,
        original_rows: Rows,
        results: Sequence[pa.Table],
        epoch: int,
    ) -> None:
        """Bring the dead letters of the stage that was replayed up to date. results: what the first such shard gets."""
        replayed = ReplayReader(self._replayed(replay, stage, original_rows), original_rows)
        for shard in self._dead_rows.shards(job.record, stage):
            dead = self._dead_rows.read(job.record.id, shard)
            pending = set() if shard.plan else {one.index for one in dead.letters if one.replay != replay.id}
            outcomes = replayed.of(pending) if pending else NO_OUTCOMES
            if not (outcomes.done or outcomes.dead):
                continue
            left, done = outcomes.still_dead(dead), len(outcomes.done)
            after = replace(
                shard,
                token=shard.token + 1,
                rows=shard.rows + done,
                rows_dead=shard.rows_dead - done,
                expanded_to=shard.results,
            )
            after, results = self._with_results(job, shard, after, results), []
            self._dead_rows.write(job.record.id, after, left)
            more_dead = Counter(letter.error_type for letter in left.letters)
            more_dead.subtract(letter.error_type for letter in dead.letters)
            changed = {kind: number for kind, number in more_dead.items() if number}
            if self._ledger.results.replace_part(job.record.id, shard, after, changed, epoch):
                # in the last stage, step 1 may have raised the token, too; what was there before the merge stays
                self._dead_rows.delete(job.record.id, replace(shard, token=shard.token - 2))

    def _with_results(self, job: JobResults, before: Settled, after: Settled, more: Sequence[pa.Table]) -> Settled:
        """Write the results of a shard for its next token, with `more`; those between stages may be gone."""
        store = job.results
        is_last = before.stage == last_stage(job.record.spec)
        if not is_last:
            store = self._workspace.open_results(job.record.id, job.record.spec, before.stage)
        tables = list(more)
        if before.results:
            try:
                tables += results_of(self._ledger, job.record, before.stage, store, [before])
            except NotFound:
                if is_last:
                    raise
        if not tables:
            return after
        table = _in_order(tables)
        write = job.write if is_last else store.write
        return replace(after, nbytes=write(after.shard_id, after.token, table), expanded_to=table.num_rows)

    def _replayed(self, replay: JobRecord, stage: int, original_rows: Rows) -> Iterator[ReplayedShard]:
        """Yield what became of the rows of a replay's first stage, named by their place in the job's `stage`."""
        for shard in settled_shards(self._ledger, replay, 0):
            for part in shard.parts:
                dead = self._dead_rows.read(replay.id, part) if part.rows_dead else DeadRows((), pa.table({}))
                letters = tuple(
                    letter.model_copy(
                        update={"stage": stage, "index": int(original_rows[letter.index]), "replay": replay.id}
                    )
                    for letter in dead.letters
                )
                rows = original_rows[part.first_row : part.first_row + part.rows + part.rows_dead]
                yield ReplayedShard(None, replace(dead, letters=letters), rows)


class _Parts:
    """The parts of a job's last stage that have results, in order; found by path."""

    def __init__(self, ledger: Ledger, job: JobResults) -> None:
        self._ledger = ledger
        self._job = job
        self._parts = [
            part for shard in settled_shards(ledger, job.record, job.stage) for part in shard.parts if part.results
        ]
        self._firsts: dict[int, Path] = {}
        self._are_gathered = job.record.spec.is_gathered_behind(job.stage)

    def __getitem__(self, at: int) -> Settled:
        return self._parts[at]

    def __setitem__(self, at: int, part: Settled) -> None:
        self._parts[at] = part
        self._firsts.pop(at, None)

    @property
    def is_empty(self) -> bool:
        """Whether there are none."""
        return not self._parts

    def read(self, at: int) -> pa.Table:
        """Read the results of a part."""
        (table,) = results_of(self._ledger, self._job.record, self._job.stage, self._job.results, [self._parts[at]])
        return table

    def places_of(self, tables: Iterator[pa.Table]) -> Iterator[tuple[int, list[pa.Table]]]:
        """Divide tables among the parts that their rows belong to.

        Rows of a replay are in the order of paths, but for those that an earlier replay has brought into the stage: so
        a part may come more than once.
        """
        at, held = -1, list[pa.Table]()
        for table in tables:
            start = 0
            for place, run in groupby(map(self._place_of, paths_of(table))):
                rows = sum(1 for _ in run)
                if place != at and held:
                    yield at, held
                    held = []
                at = place
                held.append(table.slice(start, rows))
                start += rows
        if held:
            yield at, held

    def _place_of(self, path: Path) -> int:
        low, high = 0, len(self._parts)
        while low < high:
            middle = (low + high) // 2
            if self._first(middle) <= path:
                low = middle + 1
            else:
                high = middle
        at = max(low - 1, 0)
        return at + 1 if self._belongs_behind(at, path) else at

    def _belongs_behind(self, at: int, path: Path) -> bool:
        """Whether the next planned shard has the other rows of the same source row, which are gathered from one."""
        if not self._are_gathered or at + 1 == len(self._parts):
            return False
        return self._first(at + 1)[0] == path[0] and self[at + 1].shard_id[0] != self[at].shard_id[0]

    def _first(self, at: int) -> Path:
        if at not in self._firsts:
            self._firsts[at] = paths_of(self.read(at).slice(0, 1))[0]
        return self._firsts[at]


def _has_settled(stage: StageRecord) -> bool:
    return stage.rows_done > 0 or stage.rows_dead > 0


def _in_order(tables: Sequence[pa.Table]) -> pa.Table:
    return in_path_order(joined(tables))
