"""The page of the command line, made from the commands themselves."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

import click

from batchmill.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

MARK = "<!-- generated: commands -->"
"""What the commands take the place of."""


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the commands into the page that has the mark."""
    return markdown.replace(MARK, command_pages(main)) if MARK in markdown else markdown


def command_pages(group: click.Group, name: str = "batchmill") -> str:
    """Every command of a group in Markdown: usage, what it does, its options, examples."""
    context = click.Context(group, info_name=name)
    sections = [_overview(group, context)]
    for command_name in group.list_commands(context):
        command = group.get_command(context, command_name)
        if command is not None and not command.hidden:
            inner = click.Context(command, info_name=command_name, parent=context, max_content_width=100)
            sections.append("\n".join(_command(command, inner)))
    return "\n\n".join(sections)


def _overview(group: click.Group, context: click.Context) -> str:
    lines = ["| command | what it does |", "| --- | --- |"]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and not command.hidden:
            lines.append(f"| [`{name}`](#{_anchor(context, name)}) | {_cell(command.get_short_help_str(limit=200))} |")
    return "\n".join(lines)


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"## `{context.command_path}` {{ #{_anchor(context.parent, context.info_name)} }}\n"
    yield f"```text\n{context.command_path} {' '.join(command.collect_usage_pieces(context))}\n```\n"
    yield _prose(command.help)
    records = [record for option in command.get_params(context) if (record := _record(option, context))]
    yield "\n| option | meaning |\n| --- | --- |"
    yield from (f"| `{_cell(names)}` | {_cell(meaning)} |" for names, meaning in records)
    if command.epilog:
        yield f"\n```text\n{inspect.cleandoc(command.epilog).replace(chr(8), '').strip()}\n```"


def _record(parameter: click.Parameter, context: click.Context) -> tuple[str, str] | None:
    if not isinstance(parameter, click.Option):  # an argument is in the usage, and its meaning in the text
        return None
    record = parameter.get_help_record(context)
    return record and (record[0], " ".join(record[1].split()))


def _prose(text: str | None) -> str:
    """A help text, its blocks that must not be wrapped (click marks them) as they are."""
    blocks = re.split(r"\n\s*\n", inspect.cleandoc(text or ""))
    return "\n\n".join(
        f"```text\n{block.strip(chr(8)).strip()}\n```" if block.startswith(chr(8)) else block for block in blocks
    )


def _anchor(parent: click.Context | None, name: str | None) -> str:
    return f"{parent.command_path if parent else ''}-{name}".replace(" ", "-")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
