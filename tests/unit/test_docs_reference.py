"""The documentation against what it documents, both ways: options, fields, parameters, commands, pages, variables."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import re
import tomllib
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, is_typeddict

import click
import pytest
import yaml
from pydantic import BaseModel

import batchmill
from batchmill import AsyncJob, AsyncJobStage, Job, JobStage
from batchmill.cli import main
from batchmill.jobs.files import FileSource, OutputSpec, UploadSource
from batchmill.jobs.job import BatchPolicy, JobRequest, RetryPolicy
from batchmill.jobs.sink import SinkSpec
from batchmill.ledger.formats.schema import SCHEMA
from batchmill.operators.contract import Operator
from batchmill.operators.registration import operator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("examples/*.md"), *ROOT.glob("changelog.d/*.md")])
PUBLIC = [getattr(batchmill, name) for name in batchmill.__all__ if name != "__version__"]
CLASSES = [name for name in PUBLIC if inspect.isclass(name)]
MODELS = [name for name in CLASSES if issubclass(name, BaseModel)]
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises")

_TABLE_ROW = re.compile(r"^\| `([^|]*)` \|(.*)\|$", re.MULTILINE)
_COMMAND = re.compile(r"\bbatchmill (?P<name>[a-z]+)\b(?P<rest>[^|;&`()\n]*)")
_OPTION = re.compile(r"(?<![\w-])(--?[a-z][a-z-]*)")


def hook(name: str) -> ModuleType:
    """A module of docs/hooks, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_hook_{name}", DOCS / "hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table_below(page: str, heading: str, first_column: str) -> dict[str, list[str]]:
    """The first table with that first column below a heading: its rows by name, the other cells as text."""
    section = (DOCS / page).read_text().partition(f"{heading}\n")[2]
    table = section[section.index(f"| {first_column} |") :].partition("\n\n")[0]
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in _TABLE_ROW.findall(table)}


# --- operators


def test_every_option_of_an_operator_is_documented_with_its_default() -> None:
    rows = table_below("operators.md", "## Options of `batchmill.operator`", "option")

    parameters = inspect.signature(operator).parameters
    assert list(rows) == list(parameters)
    for name, parameter in parameters.items():
        assert rows[name][-1] == shown_default(parameter.default), name


def shown_default(default: object) -> str:
    """A default as the table writes it."""
    match default:
        case inspect.Parameter.empty:
            return ""
        case ():
            return "none"
        case str():
            return f'`"{default}"`'
    return f"`{default}`"


def test_every_hook_of_an_operator_is_named_and_none_that_does_not_exist() -> None:
    page = (DOCS / "operators.md").read_text()
    hooks = {name for name in vars(Operator) if not name.startswith("_") and callable(getattr(Operator, name))}

    assert {name for name in hooks if f"`{name}" not in page and f"def {name}(" not in page} == set()


def test_every_operator_that_users_can_name_has_a_section_and_a_row_in_the_table_and_in_the_readme() -> None:
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["batchmill.operators"]
    page = (DOCS / "built-in-operators.md").read_text()
    listed = (ROOT / "README.md").read_text().partition("- [Built-in operators](docs/built-in-operators.md): ")[2]

    named = set(entries) - {"sink", "search"}  # stages that a sink and a search add by themselves
    assert set(re.findall(r"^## `(\w+)`$", page, re.MULTILINE)) == named
    assert set(re.findall(r"^\| \[`(\w+)`\]\(#\w+\) \|", page, re.MULTILINE)) == named
    assert set(re.findall(r"`(\w+)`", listed.partition("\n- ")[0])) == named


def test_every_extra_that_adds_something_is_in_the_readme() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    table = (ROOT / "README.md").read_text().partition("| extra | adds |")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)
    listed = {extra for cell in cells for extra in re.findall(r"`(\w+)`", cell)}

    assert listed == set(extras) - {"bench", "dev", "docs", "system", "test"}


# --- HTTP


def test_every_field_of_a_job_request_is_documented_and_none_that_does_not_exist() -> None:
    rows = table_below("http-api.md", "### `POST /v1/jobs`", "field")

    assert set(rows) == set(JobRequest.model_fields)


@pytest.mark.parametrize(
    ("field", "models"),
    [
        ("source", (FileSource, UploadSource)),
        ("output", (OutputSpec,)),
        ("sink", (SinkSpec,)),
        ("retry", (RetryPolicy,)),
        ("batch", (BatchPolicy,)),
    ],
)
def test_every_part_of_a_nested_field_is_documented(field: str, models: tuple[type[BaseModel], ...]) -> None:
    rows = table_below("http-api.md", "### `POST /v1/jobs`", "field")

    text = " ".join(rows[field])
    names = {about.alias or name for model in models for name, about in model.model_fields.items()}
    assert names - {name for name in names if f"`{name}`" in text} == set()


def test_the_page_of_routes_has_every_route_with_its_parameters_and_statuses_and_every_schema() -> None:
    routes = hook("http_routes")
    document = routes.openapi_document()
    page = routes.route_pages(document)

    for path, methods in document["paths"].items():
        for method, route in methods.items():
            section = page.partition(f"### `{method.upper()} {path}`\n")[2].partition("\n### ")[0]
            assert section, (method, path)
            for parameter in route.get("parameters", ()):
                assert f"| `{parameter['name']}` |" in section
            for status in route["responses"]:
                assert f"| {status} " in section
    for name, schema in document["components"]["schemas"].items():
        section = page.partition(f"### {name} {{ #schema-{name.lower()} }}\n")[2].partition("\n### ")[0]
        assert all(f"| `{field}` |" in section for field in schema.get("properties", ())), name


def test_links_between_schemas_lead_to_one() -> None:
    routes = hook("http_routes")
    page = routes.route_pages(routes.openapi_document())

    assert set(re.findall(r"\(#(schema-[a-z]+)\)", page)) <= set(re.findall(r"\{ #(schema-[a-z]+) \}", page))


# --- command line


def commands() -> dict[str, click.Command]:
    context = click.Context(main, info_name="batchmill")
    found = {name: main.get_command(context, name) for name in main.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def test_the_page_of_the_command_line_has_every_command_with_every_option() -> None:
    page = hook("command_line").command_pages(main)

    for name, command in commands().items():
        section = page.partition(f"## `batchmill {name}` ")[2].partition("\n## ")[0]
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert all(option in section for option in parameter.opts), (name, parameter.name)
                assert parameter.help, (name, parameter.name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_no_command_and_no_option_that_does_not_exist(page: Path) -> None:
    known = commands()
    wrong = [
        f"batchmill {name} {option}"
        for name, option in options_named(page.read_text(), set(known))
        if option not in {opt for parameter in known[name].params for opt in parameter.opts} | {"--help", "-h"}
    ]
    assert wrong == []


def test_every_command_is_named_on_a_page_that_was_written() -> None:
    named = {found["name"] for page in PAGES for found in _COMMAND.finditer(page.read_text())}

    assert set(commands()) <= named


def options_named(text: str, known: set[str]) -> Iterator[tuple[str, str]]:
    """Each option behind a command, as far as one line and one command go; those of a command in quotes are its own."""
    for found in _COMMAND.finditer(text.replace("\\\n", " ")):
        if found["name"] in known:
            for option in _OPTION.findall(re.sub("'[^']*'", "", found["rest"].partition("#")[0])):
                yield found["name"], option


# --- Python


def callables() -> Iterator[tuple[str, Any]]:
    """Every public function, class and method of a class that is public, by its name."""
    for item in PUBLIC:
        yield item.__name__, item
        if inspect.isclass(item) and not issubclass(item, BaseException):
            for name, member in vars(item).items():
                if not name.startswith("_") and inspect.isfunction(member):
                    yield f"{item.__name__}.{name}", member


CALLABLES = dict(callables())


@pytest.mark.parametrize("name", CALLABLES)
def test_a_docstring_has_the_arguments_of_the_signature(name: str) -> None:
    item = CALLABLES[name]
    documented = entries(item, "Args")

    assert [entry.lstrip("*") for entry in documented] == arguments_of(item)


def arguments_of(item: Any) -> list[str]:
    """What a user gives: nothing to a value that only Batchmill makes, or that describes its attributes instead."""
    if inspect.isclass(item):
        if is_typeddict(item):
            return list(item.__annotations__)
        made_by_others = issubclass(
            item, (BaseModel, Enum, AsyncJob, Job, AsyncJobStage, JobStage)
        ) or dataclasses.is_dataclass(item)
        if made_by_others or "__init__" not in vars(item):  # or is made as its base class is
            return []
    return [name for name in inspect.signature(item).parameters if name != "self"]


@pytest.mark.parametrize("name", [name for name, item in CALLABLES.items() if not inspect.isclass(item)])
def test_a_docstring_says_what_is_returned_or_yielded_exactly_if_something_is(name: str) -> None:
    item = CALLABLES[name]
    annotation = str(inspect.signature(item).return_annotation)
    yields = annotation.startswith(("Iterator", "AsyncGenerator"))

    assert has_section(item, "Yields") == yields
    assert has_section(item, "Returns") == (annotation != "None" and not yields)


@pytest.mark.parametrize("item", MODELS, ids=lambda item: item.__name__)
def test_every_field_of_a_public_model_is_described(item: type[BaseModel]) -> None:
    assert [name for name, field in item.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("name", ["PartialResult", "Expansion"])
def test_every_attribute_of_a_public_value_is_described(name: str) -> None:
    item = getattr(batchmill, name)

    assert entries(item, "Attributes") == [field.name for field in dataclasses.fields(item)]


def test_the_errors_that_docstrings_name_exist() -> None:
    named = {error for item in CALLABLES.values() for error in entries(item, "Raises")}

    assert named - set(batchmill.__all__) == {"TimeoutError"}


def test_the_reference_has_every_public_name_and_no_other() -> None:
    page = (DOCS / "reference" / "python.md").read_text()
    shown = re.findall(r"^::: ([\w.]+)$", page, re.MULTILINE)

    assert sorted(path.rpartition(".")[2] for path in shown) == sorted({*batchmill.__all__} - {"__version__"})
    assert "`batchmill.__version__`" in page
    for path in shown:
        module, _, name = path.rpartition(".")
        assert getattr(importlib.import_module(module), name) is getattr(batchmill, name)


def section_of(item: Any, section: str) -> str | None:
    """The text below a heading of a docstring, None if there is none."""
    text = inspect.cleandoc(item.__doc__ or "")
    headings = "|".join(SECTIONS)
    found = re.search(rf"^{section}:\n(.*?)(?=^(?:{headings}):$|\Z)", text, re.MULTILINE | re.DOTALL)
    return found and found[1]


def entries(item: Any, section: str) -> list[str]:
    return re.findall(r"^    ([\w*]+): ", section_of(item, section) or "", re.MULTILINE)


def has_section(item: Any, section: str) -> bool:
    return section_of(item, section) is not None


def test_the_example_of_a_ledger_of_another_version_names_the_one_of_this_build() -> None:
    example = "has data formats of version {}, this Batchmill has version {}."

    assert example.format(SCHEMA - 1, SCHEMA) in (DOCS / "upgrading.md").read_text()


# --- the site


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    listed = set(re.findall(r"([\w./-]+\.md)$", text.partition("\nnav:\n")[2], re.MULTILINE))
    hooks = (DOCS / "hooks" / "checkout_pages.py").read_text()
    checkout = set(re.findall(r'^    "[^"]+": "([^"]+\.md)",$', hooks, re.MULTILINE))

    written = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert listed == {page for page in written if not page.startswith("decisions/")} | checkout
    assert "Decisions: decisions/" in text  # all of them, in order


def test_nothing_in_the_configuration_of_the_site_is_loaded_from_elsewhere() -> None:
    text = (ROOT / "mkdocs.yml").read_text()

    assert "font: false" in text
    assert re.findall(r"https?://", text) == []


@pytest.mark.parametrize(
    "package", ["common/batchmill", "coordinator/batchmill_coordinator", "worker/batchmill_worker"]
)
def test_every_folder_of_a_package_is_in_its_table(package: str) -> None:
    table = (DOCS / "architecture.md").read_text().partition(f"| folder of `{package}` |")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)

    folders = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    assert {name for cell in cells for name in re.findall(r"`(\w+)/`", cell)} == folders


# --- containers


def test_every_setting_that_containers_are_given_is_in_the_table_of_settings() -> None:
    stack = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    given = {name for service in stack["services"].values() for name in service.get("environment", {})}
    settings = {name for name in given if name.startswith("BATCHMILL_")}
    table = set(re.findall(r"^\| `(BATCHMILL_\w+)` \|", (DOCS / "operations.md").read_text(), re.MULTILINE))
    assert settings
    assert settings <= table


def test_every_variable_of_the_example_environment_is_explained_above_it() -> None:
    blocks = (ROOT / ".env.example").read_text().strip().split("\n\n")

    assert [block for block in blocks[1:] if "=" in block and not block.startswith("# ")] == []
