"""The documentation against the code: state machines, settings, scripts, routes, errors, links."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from batchmill import errors
from batchmill.jobs.job import JOB_MOVES, JobState
from batchmill.jobs.shard import SHARD_MOVES, ShardState
from batchmill.settings import CLIENT_NAMES, PREFIX, SERVICES, CoordinatorSettings
from batchmill_coordinator.api.app import create_app
from batchmill_worker.batching.controller import Reason
from batchmill_worker.runtime.trace import Phase

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("examples/*.md")])
SCRIPTS = ROOT / "common" / "batchmill" / "ledger" / "scripts"

_DRAWING = re.compile(r"```mermaid\nstateDiagram-v2\n(.*?)```", re.DOTALL)
_MOVE = re.compile(r"^ *(\S+) --> (\S+?)(?: *: *.+)?$", re.MULTILINE)
_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.mark.parametrize(
    ("place", "moves", "first"), [(0, SHARD_MOVES, ShardState.PLANNED), (1, JOB_MOVES, JobState.PENDING)]
)
def test_a_drawn_state_machine_is_the_one_in_the_code(
    place: int, moves: dict[Any, frozenset[Any]], first: ShardState | JobState
) -> None:
    drawn = set(_MOVE.findall(_DRAWING.findall(text_of("docs/architecture.md"))[place]))

    coded = {(str(state), str(following)) for state, to in moves.items() for following in to}
    ends = {(str(state), "[*]") for state in moves if state.is_final}
    assert set(moves) == set(type(first))
    assert drawn == coded | ends | {("[*]", str(first))}


def test_a_state_is_final_exactly_if_nothing_follows_it() -> None:
    machines: list[dict[Any, frozenset[Any]]] = [dict(SHARD_MOVES), dict(JOB_MOVES)]
    for state, following in chain.from_iterable(moves.items() for moves in machines):
        assert state.is_final == (not following)


def test_every_reason_of_a_batch_size_and_every_phase_of_a_trace_is_explained() -> None:
    page = text_of("docs/performance.md")
    for word in [*Reason, *Phase]:
        assert re.search(rf"^\|.*`{word.value}`.*\|", page, re.MULTILINE), word


def test_every_setting_is_documented_with_its_default_and_none_that_does_not_exist() -> None:
    rows = re.findall(r"^\| `(BATCHMILL_\w+)` \| (?:`([^`]*)`)? *\|", text_of("docs/operations.md"), re.MULTILINE)

    fields = {name: field.default for kind in SERVICES for name, field in kind.model_fields.items()}
    known = {PREFIX + name.upper(): _shown(default) for name, default in fields.items()}
    assert dict(rows) == known | dict.fromkeys((PREFIX + name for name in CLIENT_NAMES), "")
    assert len(rows) == len(dict(rows))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_no_setting_that_does_not_exist(page: Path) -> None:
    known = {name.upper() for kind in SERVICES for name in kind.model_fields} | CLIENT_NAMES
    known |= {"REDDIS_URL"}  # misspelled on purpose: troubleshooting shows what happens

    assert set(re.findall(rf"\b{PREFIX}([A-Z0-9_]+)\b", page.read_text())) <= known


def test_every_ledger_script_is_named_in_the_architecture_and_none_that_does_not_exist() -> None:
    named = set(re.findall(r"`(\w+\.lua)`", text_of("docs/architecture.md")))

    assert named == {path.name for path in SCRIPTS.glob("*.lua")}


def test_every_route_is_documented_and_none_that_does_not_exist() -> None:
    documented = set(re.findall(r"^### `([A-Z]+ \S+)`$", text_of("docs/http-api.md"), re.MULTILINE))

    service = SimpleNamespace(settings=CoordinatorSettings(tokens=("token",)))
    app = create_app(cast("Any", service))
    routes = {f"{method.upper()} {path}" for path, methods in app.openapi()["paths"].items() for method in methods}
    assert documented == routes | {"GET /openapi.json"}


def test_every_error_is_documented_with_its_status_and_type_and_none_that_does_not_exist() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d{3}) \| `(\w+)` \|", text_of("docs/http-api.md"), re.MULTILINE)

    exceptions = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    kinds = [kind for kind in exceptions if issubclass(kind, errors.BatchmillError)]
    assert kinds == exceptions
    known = {(kind.code, str(kind.http_status), kind.__name__) for kind in kinds}
    assert set(rows) == known
    assert len(rows) == len(known)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    broken = []
    for link in _LINK.findall(_BLOCK.sub("", page.read_text())):
        if link.startswith(("https://", "http://")):
            continue
        target, _, anchor = link.partition("#")
        place = (page.parent / target).resolve() if target else page
        if not place.exists() or (anchor and anchor not in _anchors(place)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_commands_says_how_it_is_run_or_why_not(page: Path) -> None:
    lines = page.read_text().splitlines()
    starts = [number for number, line in enumerate(lines) if line in ("```sh", "```python", "```bash", "```console")]

    silent = [
        number + 1 for number in starts if not re.fullmatch(r"<!-- (?:not )?run: .+ -->", lines[max(number - 1, 0)])
    ]
    assert silent == []


def test_every_decision_is_listed() -> None:
    listed = set(_LINK.findall(text_of("docs/decisions/README.md")))

    assert listed == {path.name for path in (DOCS / "decisions").glob("0*.md")}


def _shown(default: object) -> str:
    """A setting's default as the table writes it."""
    match default:
        case bool():
            return str(default).lower()
        case float():
            return f"{default:.10g}"
        case None | ():
            return ""
        case tuple():
            return ",".join(default)
        case dict():
            return ",".join(f"{name}={value}" for name, value in default.items())
    return str(default)


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
