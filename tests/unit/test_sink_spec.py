"""Sinks as users write them, the stages that they become, and the stores that a service names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from batchmill.errors import InvalidOutput, InvalidSettings
from batchmill.jobs.job import JobForm
from batchmill.jobs.sink import PUBLISH_OPERATOR, STORE_OPERATOR, SinkSpec, amending
from batchmill.storage.named_stores import NamedStores

if TYPE_CHECKING:
    from pathlib import Path


def form(**fields: Any) -> JobForm:
    return JobForm.model_validate({"operator": "embed", "params": {"model": "m"}, "sink": {"to": "/x.lance"}} | fields)


def test_a_sink_is_two_stages_behind_those_of_the_user() -> None:
    spec = form(pool="gpu", sink={"to": "/x.lance", "pool": "writers", "writers": 3}).spec()
    assert [stage.operator for stage in spec.stages] == ["embed", STORE_OPERATOR, PUBLISH_OPERATOR]
    assert [stage.pool for stage in spec.stages] == ["gpu", "writers", "writers"]
    assert [(stage.max_at_once, stage.takes_all) for stage in spec.stages[1:]] == [(3, False), (None, True)]
    assert [stage.operator for stage in spec.computing] == ["embed"]


@pytest.mark.parametrize(
    "fields", [{}, {"operator": None, "params": {}, "stages": [{"operator": "chunk"}, {"operator": "embed"}]}]
)
def test_a_spec_with_a_sink_is_written_as_the_form_that_it_is_from(fields: dict[str, Any]) -> None:
    spec = form(**fields).spec()
    assert JobForm.of(spec).spec() == spec


def test_what_a_sink_could_not_store_is_shown_without_it() -> None:
    spec = form().spec()
    replay = spec.model_copy(update={"stages": spec.stages[1:]})
    assert [stage.operator for stage in JobForm.of(replay).stages or ()] == [STORE_OPERATOR, PUBLISH_OPERATOR]


def test_a_replay_adds_to_what_is_there() -> None:
    stage = form().spec().stages[1]
    assert SinkSpec.model_validate(amending(stage.params)["sink"]).mode == "amend"


@pytest.mark.parametrize(
    ("sink", "words"),
    [
        ({"to": "/x.csv"}, "ends in .lance"),
        ({"to": "a:b:c"}, "ends in .lance"),
        ({"to": "db:papers; drop table x"}, "ends in .lance"),
        ({"to": "/x.lance", "mode": "mirror"}, "needs `id`"),
        ({"to": "/a b.lance"}, "no name of an index"),
        ({"to": "/x.lance", "metric": "hamming"}, "metric"),
        ({"to": "db:batchmill_indexes"}, "is a name for tables"),
        ({"to": "db:pg_class"}, "is a name for tables"),
        ({"to": "db:papers__01m8d3c2kk5d2f7dj1p4"}, "is a name for tables"),
        ({"to": "/x.lance", "vector": "_id"}, "a column of its own"),
        ({"to": "/x.lance", "id": "embedding"}, "a column of its own"),
    ],
)
def test_a_sink_that_cannot_be_is_refused(sink: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SinkSpec.model_validate(sink)


def test_an_index_is_called_after_its_table() -> None:
    assert SinkSpec(to="/data/papers.lance").index_name == "papers"
    assert SinkSpec(to="db:papers").index_name == "papers"
    assert SinkSpec(to="db:papers", name="mine").index_name == "mine"


def stores(tmp_path: Path, text: str) -> NamedStores:
    file = tmp_path / "stores.toml"
    file.write_text(text)
    return NamedStores.load(str(file))


def test_a_named_store_is_for_its_tenants_and_its_password_is_read_when_it_is_needed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    found = stores(tmp_path, f'[db]\nurl = "postgresql://me@host/x"\npassword_file = "{secret}"\ntenants = ["one"]\n')
    secret.write_text("hush\n")
    assert found.get("db", "one").password() == "hush"
    assert "hush" not in repr(found.get("db"))
    with pytest.raises(InvalidOutput, match="no store 'db'") as refused:
        found.get("db", "two")
    assert "Did you mean" not in refused.value.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[db]\nurl = "mysql://host/x"\n', "one of the schemes postgresql"),
        ('[db]\nurl = "postgresql://me:hush@host/x"\n', "holds a password"),
        ('[db]\nurl = "postgresql://me@host/x?password=hush"\n', "holds a password"),
        ("[db]\nuri = 1\n", "db.url"),
        ("[db", "cannot be read"),
    ],
)
def test_a_file_of_stores_that_is_wrong_is_named_without_its_secrets(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidSettings, match=words) as refused:
        stores(tmp_path, text)
    assert "hush" not in str(refused.value)
