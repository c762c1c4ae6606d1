"""The jobs of a chaos run, made from a seed: their rows, and what must become of each."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

from batchmill import RetryPolicy, Stage
from chaos.chaos_operators import pieces_of, value_of

Path: TypeAlias = tuple[int, ...]
FailedRow: TypeAlias = tuple[int, Path]  # the number of the stage, and the path of the row there

WORK, GATHER = "work", "gather"  # names of stages
DEAD_AS = {"poison": "ValueError", "refused": "RowError", "killer": "WorkerLost"}
"""The rows that must end as dead letters, and of what error."""
REPAIR = {"kind": "plain"}
"""What is changed in a failed row before it is run again."""


@dataclass(frozen=True)
class Plan:
    """One job: everything about it follows from the seed."""

    number: int
    operator: str
    kinds: tuple[str, ...]  # of each row
    source: str  # "rows", "parquet" or "jsonl"
    output: str  # "", "parquet" or "jsonl"
    priority: int
    fate: str  # "finish", "pause", "cancel" or "expire"
    fate_after_s: float
    replays: bool  # whether its poisonous and refused rows are repaired and run again at the end
    retry: RetryPolicy
    cached: bool = False  # whether it uses the row cache, and shares rows with others that do
    is_chain: bool = False  # whether its rows pass other stages before and after the operator
    splits_first: bool = False  # whether a chain makes pieces of rows before the operator, or after it
    gathers: bool = False  # whether a chain gathers the pieces at its end
    fuse: bool | Literal["auto"] = "auto"

    @property
    def label(self) -> int:
        """What its rows call their job: neighbours that are cached say the same, so that their plain rows are equal."""
        return self.number - self.number % 4 if self.cached else self.number

    def rows(self) -> list[dict[str, Any]]:
        """Its input."""
        return [self._row(number) for number in range(len(self.kinds))]

    def _row(self, number: int) -> dict[str, Any]:
        return {"job": self.label, "id": number, "kind": self.kinds[number], "text": f"row {number} " * 8}

    def stages(self) -> list[Stage]:
        """The stages of a chain."""
        if self.splits_first:
            pieces = Stage("chaos_split", name="pieces", carry=["job", "id"])
            stages = [pieces, Stage(self.operator, name=WORK, carry=["job", "id", "piece"])]
        else:
            stages = [Stage(self.operator, name=WORK, carry=["job", "id"]), Stage("chaos_pieces", name="pieces")]
        if self.gathers:
            carry = [name for name in self._made(0) if name != "piece"]
            stages.append(Stage("gather", name=GATHER, mean=["piece"], count="pieces", carry=carry, cache=False))
        return [Stage("echo", name="before"), *stages]

    def stage_of(self, name: str) -> int:
        """The number of the stage of that name; 0 without a chain."""
        return self.stage_names().index(name) if self.is_chain else 0

    def stage_names(self) -> list[str]:
        """The names of the stages of a chain."""
        return [stage.form.name or stage.form.operator for stage in self.stages()]

    @property
    def is_counted_by_results(self) -> bool:
        """Whether the rows that its last stage has done are as many as its results."""
        return not self.is_chain or self.splits_first or self.gathers

    def _made(self, number: int) -> dict[str, Any]:
        """What the operator makes of row `number`, or of a piece of it, with the columns that are carried."""
        if self.operator == "echo":
            return self._row(number)
        return {"job": self.label, "id": number, "value": value_of(self.label, number)}

    @cached_property
    def expected(self) -> dict[Path, dict[str, Any]]:
        """The results of all rows by path, as if none had failed."""
        numbers = range(len(self.kinds))
        if not self.is_chain:
            return {(number,): self._made(number) for number in numbers}
        if self.gathers:
            return {
                (number,): self._made(number) | {"piece": (pieces - 1) / 2, "pieces": pieces}
                for number in numbers
                if (pieces := pieces_of(number))
            }
        return {
            (number, piece): self._made(number) | {"piece": piece}
            for number in numbers
            for piece in range(pieces_of(number))
        }

    @cached_property
    def dead(self) -> dict[FailedRow, str]:
        """The rows that must be given up on, each with its type of error, before any is run again."""
        work, failed = self.stage_of(WORK), dict[FailedRow, str]()
        for number, kind in enumerate(self.kinds):
            if kind not in DEAD_AS:
                continue
            if not self.splits_first:
                failed[work, (number,)] = DEAD_AS[kind]
            elif pieces_of(number):
                failed[work, (number, 0)] = DEAD_AS[kind]
                if self.gathers and pieces_of(number) > 1:
                    failed[self.stage_of(GATHER), (number,)] = "IncompleteSourceRow"
        return failed

    @property
    def is_repaired(self) -> bool:
        """Whether rows are changed and run again once it has ended."""
        return self.replays and bool(self.dead)

    def without_results(self, dead: set[Path]) -> set[Path]:
        """The results that are not there because of failed rows, whatever stage they failed in."""
        return {
            path
            for path in self.expected
            if any(path[:length] in dead for length in range(1, len(path) + 1))
            or (self.gathers and any((*path, piece) in dead for piece in range(2)))
        }


def make_plan(seed: int, number: int) -> Plan:
    """The job of that number. Pure."""
    chance = random.Random(f"{seed}/{number}")
    operator = chance.choices(["chaos_rows", "chaos_arrow", "chaos_single", "echo"], [5, 3, 2, 1])[0]
    with_killer = number % 8 == 3 and operator != "echo"
    is_chain = number % 2 == 1
    return Plan(
        number=number,
        operator=operator,
        kinds=_kinds(chance, operator, with_killer=with_killer),
        source=chance.choice(["rows", "rows", "parquet", "jsonl"]),
        output=chance.choice(["", "", "parquet", "jsonl"]),
        priority=chance.randint(-10, 10),
        fate="finish" if with_killer else chance.choices(["finish", "pause", "cancel", "expire"], [6, 2, 1, 1])[0],
        fate_after_s=chance.uniform(0.2, 4.0),
        replays=number % 3 == 0,
        # A killer costs a process an attempt; a flaky row fails twelve times in a row once in two million.
        retry=RetryPolicy(
            max_attempts=3 if with_killer else 12, backoff_s=0.1, backoff_max_s=1.0, never_on=["ValueError"]
        ),
        cached=number % 4 != 3,
        is_chain=is_chain,
        splits_first=is_chain and operator != "echo" and chance.random() < 0.5,
        gathers=is_chain and chance.random() < 0.5,
        fuse=chance.choice(["auto", True, False]),
    )


def _kinds(chance: random.Random, operator: str, *, with_killer: bool) -> tuple[str, ...]:
    if with_killer:
        kinds = ["plain"] * chance.randint(8, 40)
        kinds[chance.randrange(len(kinds))] = "killer"
        return tuple(kinds)
    rows = chance.choice([20, 300, 900])
    if operator == "echo":
        return ("plain",) * rows
    names, weights = ["plain", "flaky", "poison", "refused"], [90.0, 6.0, 1.0, 1.0]
    if operator == "chaos_arrow":
        weights[3] = 0.0
    kinds = chance.choices(names, weights, k=rows)
    if chance.random() < 0.5:
        kinds[-1] = "slow"  # it holds up the end of its stage
    return tuple(kinds)
