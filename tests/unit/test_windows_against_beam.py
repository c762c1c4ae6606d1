"""Windows fire as in those transcripts of Apache Beam that have no early triggers and none that count rows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchmill_worker.windows.rules import WindowKind, WindowRule
from batchmill_worker.windows.state import WindowState
from batchmill_worker.windows.stepping import Windows
from support.windowing import COLLECTED, Event

TRANSCRIPTS = Path(__file__).parents[1] / "data" / "beam" / "trigger_transcripts.yaml"
FOREVER_MS = 10**12
KINDS = {"FixedWindows": WindowKind.TUMBLING, "Sessions": WindowKind.SESSION}


def rule_of(case: dict[str, Any]) -> WindowRule | None:
    """Return the rule of a transcript; None for one that windows do not have. In Beam, rows move no watermark."""
    window = re.fullmatch(r"(FixedWindows|Sessions)\((\d+)\)", str(case.get("window_fn", "")))
    trigger = str(case.get("trigger_fn", "Default"))
    if window is None or not (trigger.startswith("Default") or trigger == "AfterWatermark(late=AfterCount(1))"):
        return None
    return WindowRule(
        KINDS[window[1]], int(window[2]), late_ms=int(case.get("allowed_lateness", 0)), wait_ms=FOREVER_MS
    )


CASES = [case for case in yaml.safe_load_all(TRANSCRIPTS.read_text()) if case]
APPLICABLE = {case["name"]: (rule, case) for case in CASES if (rule := rule_of(case)) is not None}


def differences(rule: WindowRule, case: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Run a transcript; return what fired and what should have, where they differ."""
    windows = Windows(rule, COLLECTED, WindowState())
    fired: list[Any] = []
    found = []
    for action in case["transcript"]:
        for element in action.get("input", ()):
            at = element if isinstance(element, int) else element["timestamp"]
            fired += windows.add(Event("key", at, at).arrival(), 0)[0]
        if "watermark" in action:
            windows.state.watermark = action["watermark"]
            fired += windows.tick(0)
        if "expect" in action:
            got = sorted(((one.start, one.end - 1), sorted(one.results[1])) for one in fired)
            expected = sorted((tuple(one["window"]), sorted(one["values"])) for one in action["expect"])
            found += [] if got == expected else [(got, expected)]
            fired = []
    return found


def test_there_are_as_many_transcripts_as_beam_has() -> None:
    assert len(CASES) == 18
    assert len(APPLICABLE) == 10


@pytest.mark.parametrize("name", [name for name in APPLICABLE if "bad" not in name])
def test_windows_fire_as_in_beam(name: str) -> None:
    assert differences(*APPLICABLE[name]) == []


@pytest.mark.parametrize("name", [name for name in APPLICABLE if "bad" in name])
def test_a_transcript_that_is_wrong_differs(name: str) -> None:
    assert differences(*APPLICABLE[name])
