"""What the indexes of a ledger must hold, derived from its jobs and stages without the scripts that keep them."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

AGEING_MS = 60_000
FINAL = ("completed", "cancelled", "failed", "expired")
JOB = re.compile(r"^job:\{([^}]*)\}$")


def index_of(dump: dict[str, Any], prefix: str, now_ms: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The indexes as they should be and as they are, by name.

    A retry that became due may be among the later ones until the dispatcher admits it. When a job was found to be
    over is not compared.
    """
    named = {key.removeprefix(prefix): value for key, value in dump.items()}
    found = {key.removeprefix("index:"): value for key, value in named.items() if key.startswith("index:")}
    due: dict[str, Any] = defaultdict(dict)
    for key, job in named.items():
        if match := JOB.match(key):
            _add_job(due, named, match[1], job, found.get("later", {}), now_ms)
    found.get("work", {}).pop("generation", None)
    found["finish"] = dict.fromkeys(found.get("finish", {}), 0)
    return {key: value for key, value in due.items() if value}, {key: value for key, value in found.items() if value}


def _add_job(
    due: dict[str, Any], named: dict[str, Any], job_id: str, job: dict[str, str], later: dict[str, int], now_ms: int
) -> None:
    stopping = job["state"] in ("cancelling", "failing", "expiring")
    final = job["state"] in FINAL
    stages = [named[f"job:{{{job_id}}}:stage:{number}"] for number in range(int(job["stage_count"]))]
    running = sum(_int(stage, "shards_running") + _int(stage, "stragglers") for stage in stages)
    settled = all(stage["planned"] == "1" and not _int(stage, "shards_live") for stage in stages)
    if not running and (stopping or (settled and job["state"] in ("running", "paused"))):
        due["finish"][job_id] = 0
    if not final:
        pool, _, _ = stages[0]["worked_for"].partition(" ")
        is_spent = (
            job["state"] == "paused" and "budget_nano" in job and _int(job, "cost_nano") >= _int(job, "budget_nano")
        )
        _count(due, f"job {job['state']} {stages[0]['worked_for']}", 1)
        _count(due, f"owner - {job['tenant']}", 1)
        _count(due, f"spent - {pool}", int(is_spent))
    if "deadline_ms" in job and not stopping and not final:
        due["deadlines"][job_id] = int(job["deadline_ms"])
    for number, stage in enumerate(stages):
        _add_stage(due, named, f"job:{{{job_id}}}", job, (f"{job_id}|{number}", number, stage), later, now_ms)


def _add_stage(
    due: dict[str, Any],
    named: dict[str, Any],
    job_key: str,
    job: dict[str, str],
    one: tuple[str, int, dict[str, str]],
    later: dict[str, int],
    now_ms: int,
) -> None:
    member, number, stage = one
    pool, live, state = _pool(named, job_key, number), _int(stage, "shards_live"), job["state"]
    in_flight = _int(stage, "shards_queued") + _int(stage, "shards_running")
    following = named.get(f"{job_key}:stage:{number + 1}")
    is_blocked = _is_blocked(named, job_key, number, in_flight)
    buffered = _int(stage, "bytes_out") - _int(stage, "bytes_freed")
    is_freed = following is not None and buffered > 0 and _int(following, "shards_done") > _int(stage, "freed_at")
    if is_freed and state not in FINAL:
        due["free"] = {*due["free"], member}
    is_planned = stage["planned"] == "1" or stage.get("joins") == "1"
    if state in ("pending", "running") and not is_planned and _may_have_input(named, job_key, number, stage):
        _take_turn(due, "plan", pool, stage["turn"], member, live * 1000 - int(job["priority"]))
    if state == "running" and live > in_flight and not is_blocked:
        retries = named.get(f"{job_key}:waiting:{number}", {})
        first = 0 if f"{job_key}:ready:{number}" in named else min(retries.values(), default=0)
        if first > now_ms or (first and member in later):
            due["later"][member] = first
        else:
            since = int(stage.get("last_queued_at", job["created_at"]))
            _take_turn(due, "ready", pool, stage["turn"], member, since - int(job["priority"]) * AGEING_MS)
    if in_flight:
        due["flight"] = {*due["flight"], pool}
        due[f"flight|{pool}"][member] = in_flight
    left = (
        max(_int(stage, "rows_total"), _int(stage, "rows_planned"))
        - _int(stage, "rows_done")
        - _int(stage, "rows_dead")
    )
    if state in ("pending", "running") and not in_flight and left > 0 and (number == 0 or live) and not is_blocked:
        due[f"starved|{pool}"][member] = int(stage.get("last_queued_at", job["created_at"]))
    if state not in FINAL:
        waiting = len(named.get(f"{job_key}:waiting:{number}", {})) if live > in_flight else 0
        counts = {
            "planned": live - in_flight - waiting,
            "queued": _int(stage, "shards_queued"),
            "running": _int(stage, "shards_running"),
            "waiting": waiting,
            "left": left,
            "done": _int(stage, "rows_done"),
            "dead": _int(stage, "rows_dead"),
            "held": int(all(_pool(named, job_key, before) != pool for before in range(number))),
        }
        counts |= _paced(named, job_key, number)
        runs = int(state in ("pending", "running"))
        for what, amount in counts.items():
            _count(due, f"{what} {runs} {stage['worked_for']}", amount)
    if state == "paused" and _int(stage, "shards_queued"):
        due["unqueue"] = {*due["unqueue"], member}


def _paced(named: dict[str, Any], job_key: str, number: int) -> dict[str, int]:
    """What the rows left of a stage will take; a stage that runs with another one has the rows of that."""
    stage, rows_of = named[f"{job_key}:stage:{number}"], number
    while named[f"{job_key}:stage:{rows_of}"].get("joins") == "1":
        rows_of -= 1
    first = named[f"{job_key}:stage:{rows_of}"]
    rows = max(_int(first, "rows_total"), _int(first, "rows_planned"))
    left = max(rows - _int(first, "rows_done") - _int(first, "rows_dead") + _int(first, "lag"), 0)
    us = sum(_int(stage, f"cost {part}_us") for part in ("useful", "padding", "retried", "idle"))
    charged = _int(stage, "cost rows")
    return {
        "expected": left * us // charged if charged else 0,
        "unpaced": 0 if charged else left,
        "open": int(number == 0 and stage["planned"] != "1" and not stage.keys() & {"rows_total", "lag"}),
    }


def _pool(named: dict[str, Any], job_key: str, number: int) -> str:
    found: str = named[f"{job_key}:stage:{number}"]["worked_for"].split(" ")[0]
    return found


def _may_have_input(named: dict[str, Any], job_key: str, number: int, stage: dict[str, str]) -> bool:
    """Whether a stage that is not the first may have results of the one before that are not in its shards."""
    if number == 0:
        return True
    before = named[f"{job_key}:stage:{number - 1}"]
    is_over = before["planned"] == "1" and not _int(before, "shards_live")
    first = (stage.get("cursor") or "0 0").split()[0]
    return is_over or first in named.get(f"{job_key}:done:{number - 1}", {})


def _is_blocked(named: dict[str, Any], job_key: str, number: int, in_flight: int) -> bool:
    """Whether a stage has no room in its buffer, or in that of a stage that runs with it."""
    stage, made_in = named[f"{job_key}:stage:{number}"], number
    while (following := named.get(f"{job_key}:stage:{made_in + 1}")) is not None:
        if _is_full(stage, named[f"{job_key}:stage:{made_in}"], following, in_flight):
            return True
        if following.get("joins") != "1":
            return False
        made_in += 1
    return False


def _is_full(stage: dict[str, str], made_in: dict[str, str], following: dict[str, str], in_flight: int) -> bool:
    """Whether the buffer behind `made_in` has no room for one more shard of a stage, and the next stage has work."""
    settled = _int(stage, "rows_done") + _int(stage, "rows_dead")
    if settled:
        of_a_row = -(-_int(made_in, "bytes_out") // settled)
        expected = of_a_row * -(-(_int(stage, "rows_planned") - settled) // max(_int(stage, "shards_live"), 1))
    else:
        expected = 8 * -(-_int(stage, "bytes_in") // max(_int(stage, "shards_planned"), 1))
    buffered = _int(made_in, "bytes_out") - _int(made_in, "bytes_freed")
    is_full = buffered + (in_flight + 1) * expected > _int(made_in, "buffer_bytes")
    return bool(expected and is_full and (buffered or in_flight) and _int(following, "shards_live"))


def _count(due: dict[str, Any], field: str, amount: int) -> None:
    if amount:
        due["work"][field] = str(int(due["work"].get(field, "0")) + amount)


def _take_turn(due: dict[str, Any], kind: str, pool: str, turn: str, member: str, score: int) -> None:
    due[kind] = {*due[kind], pool}
    due[f"{kind}|{pool}"] = {*due[f"{kind}|{pool}"], turn}
    due[f"{kind}|{pool}|{turn}"][member] = score


def _int(found: dict[str, str], name: str) -> int:
    return int(found.get(name, "0"))
