"""Arriving work: jobs, each with the seconds of its tasks. Seeded: the same arguments give the same trace."""

from __future__ import annotations

import csv
import math
import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

DATA = Path(__file__).with_name("data")
DAY_S = 86_400.0
WINDOW_S = 600.0


class Job(NamedTuple):
    """Tasks that arrive together: shards of a job, or one request. Seconds."""

    at: float
    tasks: list[float]


def batch_jobs(days: int = 3, per_day: int = 14, seed: int = 5) -> list[Job]:
    """Made: jobs in working hours, of a lognormal size with a median of 20 device minutes, in shards of about 5 s."""
    rng, jobs, shard_s = random.Random(seed), [], 5.0  # noqa: S311  # a simulation
    for day in range(days):
        for _ in range(per_day):
            at = day * DAY_S + rng.uniform(8, 20) * 3600
            size_s = min(rng.lognormvariate(math.log(1200), 1.3), 40 * 3600)
            rng.choice((1, 2, 3))  # what a row costs, which no policy here looks at
            shards = max(int(size_s / shard_s), 1)
            jobs.append(Job(at, [shard_s * rng.lognormvariate(0, 0.15) for _ in range(shards)]))
    return sorted(jobs)


def servegen(name: str, scale: float, *, day: int = 1, seed: int = 3) -> list[Job]:
    """One day of a client of ServeGen: requests with the rate and the spread of each of its windows of ten minutes.

    Arrivals are gamma distributed; a request takes 2 s on average, lognormally spread. scale: a factor on the rates.
    """
    rng, jobs = random.Random(seed), []  # noqa: S311  # a simulation
    with (DATA / f"servegen-{name}.csv").open() as lines:
        for row in csv.reader(lines):
            begins, rate, spread = float(row[0]) - day * DAY_S, float(row[1]) * scale, float(row[2])
            if 0 <= begins < DAY_S and rate > 0:
                shape = max(spread, 0.5) ** -2
                at = rng.gammavariate(shape, 1 / (rate * shape))
                while at < WINDOW_S:
                    jobs.append(Job(begins + at, [rng.lognormvariate(math.log(2) - 0.32, 0.8)]))
                    at += rng.gammavariate(shape, 1 / (rate * shape))
    return sorted(jobs)


FIRST_DAY = datetime(2024, 12, 2)  # noqa: DTZ001  # as in the file


def gentd26(path: Path, first: datetime = FIRST_DAY, days: int = 3) -> list[Job]:
    """GenTD26's `lora_request_trace.csv`, which is not in this repository: an image request is a job of one task."""
    jobs = []
    with path.open() as lines:
        for row in csv.DictReader(lines):
            after, took_s = datetime.fromisoformat(row["gmt_create"]) - first, float(row["exec_time_seconds"] or 0)
            if timedelta(0) <= after < timedelta(days=days) and took_s > 0:
                jobs.append(Job(after.total_seconds(), [took_s]))
    return sorted(jobs)
