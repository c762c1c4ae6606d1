"""What an attempt of a simulated chain makes of the first rows of its shard, in its stage and in those that join it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.jobs.completion import Completion
from support.chain_truth import Made, Path, kills, made_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.jobs.shard import Shard
    from support.chain_sim import Setup


@dataclass(frozen=True)
class AttemptWork:
    """The rows that an attempt runs, and what it makes of them in each stage."""

    rows: int
    made: tuple[Made, ...]  # in its own stage, and in those that it passes
    kills: bool  # whether one of them ends its process
    may_try_next: bool  # whether it stops before a stage that joins, which has something to do

    @classmethod
    def of(cls, setup: Setup, shard: Shard, rows: Sequence[Path], goes_on: Sequence[bool]) -> AttemptWork:
        """What becomes of these rows. goes_on: whether the attempt continues, before each of the stages that join."""
        number, made = shard.stage, [made_of(setup.kinds[shard.stage], shard.stage, rows)]
        ends = any(kills(number, path) for path in rows)
        wishes = iter(goes_on)
        while _joins(setup, number + 1) and made[-1].results and next(wishes, False):
            number, results = number + 1, made[-1].results
            ends = ends or any(kills(number, path) for path in results)
            made.append(made_of(setup.kinds[number], number, results))
        return cls(len(rows), tuple(made), ends, _joins(setup, number + 1) and bool(made[-1].results))

    def completions(self, setup: Setup, shard: Shard) -> list[Completion]:
        """What is to be committed; only what the last of the stages has made is stored."""
        found = []
        for place, made in enumerate(self.made):
            stage = shard.stage + place
            one = Completion(
                rows=made.rows,
                rows_dead=made.rows_dead,
                nbytes=made.nbytes if made is self.made[-1] else 0,
                busy_s=setup.row_s[stage] * (made.rows + made.rows_dead),
                dead_by_type=(("ValueError", made.rows_dead),) if made.rows_dead else (),
                results=None if setup.kinds[stage] == "map" else len(made.results),
                rows_filtered=made.rows_filtered,
                roots_dead=made.roots_dead,
            )
            found.append(one)
        return found


def _joins(setup: Setup, stage: int) -> bool:
    return stage < len(setup.kinds) and setup.joins[stage]
