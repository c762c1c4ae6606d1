"""Benchmark figures beside those of an earlier commit."""

from __future__ import annotations

from typing import Any

from benchmarks.compare import changes, is_comparable, markdown


def report(name: str, unit: str, runs: list[float], *, rows: int = 10, cpu: str = "a") -> dict[str, Any]:
    figure = {"name": name, "unit": unit, "runs": runs, "median": sorted(runs)[len(runs) // 2]}
    figure |= {"low": min(runs), "high": max(runs)}
    return {
        "benchmark": "chain",
        "settings": {"rows": rows},
        "figures": [figure],
        "machine": {"cpu": cpu, "cores": 2},
    }


def test_runs_that_overlap_or_differ_little_are_no_change() -> None:
    before = [report("time", "s", [1.0, 1.1, 1.3])]
    assert list(changes(before, [report("time", "s", [1.2, 1.6, 1.7])])) == []
    assert list(changes([report("time", "s", [1.0, 1.0])], [report("time", "s", [1.05, 1.05])])) == []
    assert list(changes(before, [report("time", "s", [9.0], rows=11)])) == []
    assert list(changes(before, [report("other", "s", [9.0])])) == []


def test_times_that_rise_and_rates_that_fall_are_slower() -> None:
    (time,) = changes([report("t", "ms", [1.0, 1.1])], [report("t", "ms", [1.3, 1.4])])
    (rate,) = changes([report("r", "rows/s", [100.0, 110.0])], [report("r", "rows/s", [50.0, 60.0])])
    (share,) = changes([report("p", "%", [1.0])], [report("p", "%", [5.0])])
    (better,) = changes([report("r", "rows/s", [100.0])], [report("r", "rows/s", [200.0])])
    assert [one.verdict for one in (time, rate, share, better)] == ["slower", "slower", "changed", "faster"]
    assert [one.is_failure for one in (time, rate, share, better)] == [False, True, False, False]
    shown = markdown([rate], comparable=True)
    assert "| chain: r | 110 rows/s | 60.0 rows/s | slower, by too much |" in shown


def test_machines_of_different_kinds_are_not_compared() -> None:
    before, after = [report("t", "s", [1.0])], [report("t", "s", [9.0], cpu="b")]
    assert not is_comparable(before, after)
    assert "not compared" in markdown([], comparable=False)
    assert is_comparable(before, before)
    assert is_comparable([], before)
