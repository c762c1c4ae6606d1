"""Workflows, pre-commit and changelog fragments do what the contributing guide and their own comments say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FRAGMENTS = sorted(path for path in (ROOT / "changelog.d").iterdir() if path.name != "README.md")
TYPES = ("added", "changed", "deprecated", "removed", "fixed", "security")
MAKEFILE = (ROOT / "Makefile").read_text()


def steps(workflow: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_make_targets_that_exist_and_nothing_else(workflow: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", MAKEFILE, re.MULTILINE))
    commands = [step["run"].split() for step in steps(workflow) if "run" in step]

    assert commands
    for make, *arguments in commands:
        assert make == "make"
        assert {argument for argument in arguments if "=" not in argument} <= targets


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_an_action_is_pinned_by_its_commit_with_the_version_beside_it(workflow: Path) -> None:
    used = re.findall(r"uses: (.+)$", workflow.read_text(), re.MULTILINE)

    assert used
    assert [line for line in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []


def test_the_workflow_runs_every_python_that_the_package_names() -> None:
    named = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    checks = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text())

    assert checks["jobs"]["linux"]["strategy"]["matrix"]["python"] == named


def test_every_target_with_a_recipe_of_its_own_is_phony_and_explained() -> None:
    phony = set(re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)[1].replace("\\", " ").split())  # type: ignore[index]
    explained = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))

    assert phony == explained


def test_pre_commit_runs_the_versions_that_lint_runs() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]

    revisions = {hook["id"].partition("-")[0]: repo["rev"] for repo in repos for hook in repo["hooks"]}
    assert revisions == {tool: f"v{pins[tool]}" for tool in ("ruff", "typos", "zizmor")}


def test_the_kinds_of_changes_are_those_that_the_guide_lists() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "changelog.d" / "README.md").read_text(), re.MULTILINE)
    configured = re.findall(r'^\[\[tool\.towncrier\.type\]\]\ndirectory = "(\w+)"', pyproject(), re.MULTILINE)

    assert tuple(listed) == tuple(configured) == TYPES


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda path: path.name)
def test_a_changelog_fragment_has_a_name_that_is_read_and_a_text(fragment: Path) -> None:
    assert re.fullmatch(rf"(\d+|\+[a-z0-9-]+)\.({'|'.join(TYPES)})(\.\d+)?\.md", fragment.name)
    text = fragment.read_text().strip()
    assert text
    assert not text.startswith(("-", "*", "#"))


def test_the_place_where_a_release_puts_its_changes_is_in_the_changelog() -> None:
    assert (ROOT / "CHANGELOG.md").read_text().count("<!-- towncrier release notes start -->\n") == 1


@pytest.mark.parametrize(
    "form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.name
)
def test_an_issue_form_has_a_name_and_questions_with_ids_of_their_own(form: Path) -> None:
    content = yaml.safe_load(form.read_text())
    if form.name == "config.yml":
        assert content == {"blank_issues_enabled": False}
        return
    ids = [part["id"] for part in content["body"] if part["type"] != "markdown"]
    assert content["name"]
    assert content["description"]
    assert len(ids) == len(set(ids)) > 0


def pyproject() -> str:
    return (ROOT / "pyproject.toml").read_text()
