"""Formats of numbers, times and a job's progress, the same in the command line, notebooks and messages."""

from __future__ import annotations

import json
import math
import unicodedata
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill.jobs.status import JobStatus, TokenSums
    from batchmill.jobs.streams.status import StreamStatus

MAX_ETA_RATIO = 10
"""A range of the time left whose ends differ by more than this factor says nothing, and is not shown."""
MAX_SHOWN_CHARS = 80
_JOINERS = "\u200c\u200d"  # format characters that scripts and emoji need


def count(rows: int, noun: str = "row") -> str:
    """Format a number of things: `1 row`, `12,345 rows`."""
    return f"{rows:,} {noun}" if rows == 1 else f"{rows:,} {noun}s"


def duration(seconds: float) -> str:
    """Format a time span: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02} s"
    if rounded < 48 * 3600:
        return f"{rounded // 3600} h {rounded % 3600 // 60:02} min"
    return f"{rounded // 86_400} d {rounded % 86_400 // 3600} h"


def hours(value: float) -> str:
    """Format hours, of which a few minutes are not nothing: `0`, `0.0031`, `0.25`, `3.4`, `120.0`."""
    if value <= 0:
        return "0"
    digits = 1 if value >= 1 else 1 - math.floor(math.log10(value))
    return f"{value:.{digits}f}"


def byte_size(nbytes: int) -> str:
    """Format a number of bytes: `0 B`, `12.5 kB`, `268.4 MB`, `1.1 TB`."""
    size, unit = float(nbytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 999.95:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} B" if unit == "B" else f"{size:,.1f} {unit}"


def progress(status: JobStatus) -> str:
    """Format the rows done, failed ones included: `1,000 of 5,000 rows (10 failed, 3 from the cache)`."""
    settled = status.rows_done + status.rows_dead
    if status.stream is not None and status.rows_total is None:
        return _progress_of_stream(status, status.stream, settled)
    total = "?" if status.rows_total is None else f"{status.rows_total:,}"
    about = "about " if status.rows_total_is_estimate else ""
    counts = {"failed": status.rows_dead, "from the cache": status.rows_cached}
    details = ", ".join(f"{rows:,} {what}" for what, rows in counts.items() if rows)
    noun = "row" if status.rows_total == 1 else "rows"
    return f"{settled:,} of {about}{total} {noun}{f' ({details})' if details else ''}"


def _progress_of_stream(status: JobStatus, stream: StreamStatus, settled: int) -> str:
    """Format the rows of a stream: `1,000 rows (3 failed), 20 wait, up to 2030-01-31 17:00:05 UTC`."""
    counts = {"failed": status.rows_dead, "lost": stream.rows_lost}
    details = ", ".join(f"{rows:,} {what}" for what, rows in counts.items() if rows)
    parts = [f"{count(settled)}{f' ({details})' if details else ''}"]
    if stream.lag is not None:
        parts.append(f"{stream.lag:,} wait")
    if stream.watermark_at is not None:
        parts.append(f"up to {datetime.fromtimestamp(stream.watermark_at, UTC):%Y-%m-%d %H:%M:%S} UTC")
    return ", ".join([*parts, *(["its source is away"] if stream.away else [])])


def tokens(sums: TokenSums | None) -> str:
    """Format tokens: `1,200 prompt tokens (300 cached), 640 generated`; "" without any."""
    if sums is None:
        return ""
    cached = f" ({sums.cached:,} cached)" if sums.cached else ""
    return f"{sums.prompt:,} prompt tokens{cached}, {sums.generated:,} generated"


def pace(status: JobStatus) -> str:
    """Format what is known of speed and time left: `812 rows/s, 12 s left (9.1 s to 15 s)`."""
    known = []
    if status.rows_per_second is not None:
        known.append(rows_per_second(status.rows_per_second))
    if status.eta_s is not None and not status.is_final:
        known.append(f"{duration(status.eta_s)} left{eta_range(status)}")
    return ", ".join(known)


def dead(status: JobStatus) -> str:
    """Format the failed rows by error type, most frequent first: `ValueError 12, too_large 1`; "" without any."""
    return ", ".join(f"{kind} {number:,}" for kind, number in status.dead_by_error.items())


def rows_per_second(pace: float) -> str:
    """Format a speed: `0.14 rows/s`, `1 row/s`, `12,345 rows/s`."""
    number = speed(pace)
    return f"{number} {'row' if number == '1' else 'rows'}/s"


def speed(pace: float) -> str:
    """Format a number of rows per second: `0.14`, `1`, `12,345`."""
    return f"{pace:.2g}" if 0 < pace < 0.95 else f"{round(pace):,}"


def eta_range(status: JobStatus) -> str:
    """Format the range of the time left: ` (9.1 s to 15 s)`; "" if it is unknown, a point, or wider than ten times."""
    if status.eta_low_s is None or status.eta_high_s is None or status.eta_high_s > MAX_ETA_RATIO * status.eta_low_s:
        return ""
    low, high = duration(status.eta_low_s), duration(status.eta_high_s)
    return "" if low == high else f" ({low} to {high})"


def shown(value: object) -> str:
    """Format a value that was received, as JSON spells it (`true`, `null`), shortened to `MAX_SHOWN_CHARS`."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[: MAX_SHOWN_CHARS - 1]}…"


def fault_of(first: Mapping[str, Any]) -> str:
    """Describe one entry of `ValidationError.errors()`: `retry.max_attempts: ... , got 0.`"""
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "value_error":  # from a validator of ours: a sentence of its own
        text = sentence_of(first)
        return f"{where}: {text}." if where else f"{text}."
    if first["type"] == "extra_forbidden":
        return f"unknown field {where!r}."
    return f"{where}: {first['msg']}, got {shown(first['input'])}."


def sentence_of(first: Mapping[str, Any]) -> str:
    """Return the message of such an entry; of a validator of ours, the message that it has raised."""
    return str(first["msg"]).removeprefix("Value error, ")


def printable(text: str) -> str:
    """Escape what could act on a terminal or forge lines: control and direction characters, line ends, surrogates."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(char) if _acts(char) else char for char in text)


def _acts(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char not in _JOINERS


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def state(status: JobStatus) -> str:
    """Format a job's state: `blocked` when it could run and something that a user can fix prevents it."""
    return "blocked" if status.note and status.state.takes_shards else str(status.state)


def requested(status: JobStatus) -> list[tuple[str, str]]:
    """List what a job was run with, as names and values: everything that differs from the defaults."""
    if status.request is None:
        return []
    given = status.request.model_dump(mode="json", exclude_defaults=True)
    shown_elsewhere = ("operator", "name", "pool", "priority", "deadline_at", "output", "budget", "stages")
    of_stages = [(f"options of {one.get('name') or one['operator']}", _options(one)) for one in given.get("stages", ())]
    named = [(name, _given(value)) for name, value in given.items() if name not in shown_elsewhere]
    return [*named, *(entry for entry in of_stages if entry[1])]


def _options(stage: dict[str, Any]) -> str:
    """List what a stage was run with: its parameters, then everything else that differs from the defaults."""
    usual: dict[str, Any] = {"pool": stage.get("pool"), "on_null": "dead", "retry": {}, "batch": {}, "cache": False}
    others = {
        name: value
        for name, value in stage.items()
        if name not in ("operator", "name", "params") and (name not in usual or usual[name] != value)
    }
    return _given(stage.get("params", {}) | others)


def _given(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={_given(part)}" for name, part in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
