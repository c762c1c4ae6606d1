"""Jobs are chains of stages: of one so far, but nothing outside the tests may say which."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from batchmill.jobs.dead_letters import dead_letters_name
from batchmill.jobs.job import MAX_STAGES, JobForm, JobRequest, JobSpec, RetryPolicy, StageSpec
from batchmill.jobs.shard import ShardId, ShardRef, checkpoint_name, part_stem
from batchmill.jobs.stages import last_stage, stages_of
from batchmill.ledger.formats.keys import Keys
from batchmill.ledger.formats.record import JobStage
from batchmill.ledger.scripting.header import scripts, text_of
from support.records import job_record, spec_of

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for package in ("common", "coordinator", "worker") for path in (ROOT / package).rglob("*.py"))
ALLOWED = "common/batchmill/jobs/stages.py"
"""The module that says which stage is the first."""

LITERAL_STAGE = re.compile(
    r"""\bstage\s*(?::\s*int\s*)?=\s*\d             # stage=0, stage: int = 0
      | \bstages\[\d+\]                           # stages[0]: .first says what is meant
      | \b(?:ShardRef|Shard)\([^,()]+,\s*\d       # ShardRef(job_id, 0, …)
      | \bkeys\.(?:shard|done|stage|ready|waiting|live_shards|inline_results)\([^,()]+,\s*\d
      | \b(?:to_queue|settled|inline_results|open_results|settled_shards)\([^,()]+,\s*\d""",
    re.VERBOSE,
)
PROPERTIES = {"common/batchmill/jobs/job.py": 1, "common/batchmill/ledger/formats/record.py": 1}
"""How often a module may name a place in `stages`: the properties `first`."""


def test_no_source_names_a_stage_by_a_literal_number() -> None:
    found = {}
    for path in SOURCES:
        hits = LITERAL_STAGE.findall(path.read_text())
        name = str(path.relative_to(ROOT))
        if name != ALLOWED and len(hits) > PROPERTIES.get(name, 0):
            found[name] = hits
    assert found == {}


def test_the_search_for_literal_stages_finds_them() -> None:
    for text in ("f(stage=0)", "stage: int = 0", "spec.stages[0]", "ShardRef(job_id, 0, s, t)", "keys.done(job_id, 0)"):
        assert LITERAL_STAGE.search(text), text
    for text in ("f(stage=stage)", "stage: int", "spec.stages[number]", "keys.done(job_id, stage)"):
        assert not LITERAL_STAGE.search(text), text


@pytest.mark.parametrize("script", scripts())
def test_no_script_names_a_stage_by_a_literal_number(script: str) -> None:
    assert not re.search(r"stage['\" ]*(?:==|~=|=|,) *['\"]?\d", text_of(script))


def test_a_spec_has_exactly_one_stage_so_far() -> None:
    stage = StageSpec(operator="echo")
    assert JobSpec(stages=(stage,)).stages == (stage,)
    for stages in ((), (stage,) * (MAX_STAGES + 1)):
        with pytest.raises(ValidationError, match="stages"):
            JobSpec(stages=stages)


def test_what_users_write_is_a_chain_of_one_and_comes_back_as_they_wrote_it() -> None:
    form = JobForm(
        operator="embed", params={"model": "m"}, pool="gpu", carry=["id"], name="mine", budget=2.0, cache=True
    )
    spec = form.spec()

    assert spec.stages == (StageSpec(operator="embed", params={"model": "m"}, pool="gpu", carry=["id"], cache=True),)
    assert (spec.name, spec.budget) == ("mine", 2.0)
    assert JobForm.of(spec) == form
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec
    assert JobRequest(operator="embed", rows=[{"id": 1}]).spec() == spec_of("embed")
    assert spec_of("echo", retry=RetryPolicy(max_attempts=9), priority=3).first.retry.max_attempts == 9


def test_every_key_of_a_stage_and_every_blob_of_an_attempt_has_its_stage() -> None:
    keys = Keys("b:")
    assert len(keys.of_job("job-1", 3)) == len(set(keys.of_job("job-1", 3))) == len(keys.of_job("job-1", 0)) + 3 * 7
    first, second = (ShardRef("job-1", stage, ShardId((17,)), 2) for stage in (0, 1))
    assert dead_letters_name(first) != dead_letters_name(second)
    assert checkpoint_name(first) != checkpoint_name(second)
    assert first.attempt_key != second.attempt_key


def test_the_order_of_part_names_is_input_order_whatever_was_split() -> None:
    ids = [(2,), (9, 0), (9, 1, 0), (9, 1, 1), (10, 2), (10, 512), (100,)]
    assert sorted(part_stem(ShardId(one), 1) for one in ids) == [part_stem(ShardId(one), 1) for one in ids]


def test_the_stages_of_a_job_are_walked_in_order() -> None:
    record = job_record()
    assert list(stages_of(record.spec)) == [0]
    assert last_stage(record.spec) == 0
    assert JobStage(record, record.first).key == ("job-1", 0)
