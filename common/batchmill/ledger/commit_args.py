"""The arguments of a commit, from what an attempt has made in its own stage and in those that run with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchmill.jobs.completion import TriedStage
from batchmill.ledger.formats.documents import write_error
from batchmill.ledger.scripting import calls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.jobs.completion import Completion, DeadLimit, PassedStage, ShardRest
    from batchmill.jobs.cost import Parts


def commit_args(
    completion: Completion,
    limit: DeadLimit | None,
    used: Parts,
    passed: Sequence[PassedStage],
    tried: TriedStage | None,
) -> dict[str, Any]:
    """Return the arguments of `calls.commit` that describe what was made; see `ShardLedger.commit`."""
    everything = (completion, *(one.completion for one in passed))
    return {
        **_made(completion, limit, used),
        **_left(tried),
        "dead_by_type": [calls.DeadRowsCount(kind, rows) for made in everything for kind, rows in made.dead_by_type],
        "rest": [] if completion.rest is None else [_rest(completion.rest)],
        "passed": [
            calls.PassedStage(version=one.version, revision=one.revision, **_made(one.completion, one.limit, one.used))
            for one in passed
        ],
    }


def _made(made: Completion, limit: DeadLimit | None, used: Parts) -> dict[str, Any]:
    return {
        "rows": made.rows,
        "rows_dead": made.rows_dead,
        "nbytes": made.nbytes,
        "busy_us": int(made.busy_s * 1e6),
        "inline": made.inline or None,
        "max_dead": limit.most if limit else None,
        "too_many_dead": write_error(limit.error) if limit else None,
        "results": made.results,
        "rows_cached": made.rows_cached,
        "rows_filtered": made.rows_filtered,
        "tokens": made.tokens.write() or None,
        "roots_dead": made.rows_dead if made.roots_dead is None else made.roots_dead,
        "borders": made.borders or None,
        "incomplete": " ".join(map(str, made.incomplete)) or None,
        "used": used,
    }


def _rest(rest: ShardRest) -> calls.Rest:
    shard = rest.shard
    return calls.Rest(
        shard_id=shard.shard_id,
        part_id=rest.part_id,
        split_id=rest.split_id,
        parts=rest.parts,
        rows=shard.rows,
        plan=shard.plan(),
        checkpoint=shard.checkpoint or None,
        delay_ms=int(rest.delay_s * 1000),
    )


def _left(tried: TriedStage | None) -> dict[str, Any]:
    found = tried or TriedStage(0.0)
    delay_ms = int(found.delay_s * 1000)
    return {
        "failed_in_next": tried is not None,
        "delay_ms": delay_ms,
        "failures": found.failures,
        "checkpoint": found.checkpoint or None,
        "stalled_by": found.stalled_by or None,
        "stalled_ms": delay_ms + found.used.total // 1000,
        "pause_for": found.pause_for or None,
        "stop_with": write_error(found.stop_with) if found.stop_with else None,
        "used_in_next": found.used,
    }
