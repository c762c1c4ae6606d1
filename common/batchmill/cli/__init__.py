"""The command line. Each command is an entry point of the group `batchmill.commands`, imported on first use.

Exit codes: 0 success; 1 the job failed, was cancelled or expired, or the service did not do what was asked;
2 the input is wrong; 3 the service cannot be reached or does not accept the token; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from functools import cached_property
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import click

from batchmill.errors import (
    BatchmillError,
    Conflict,
    InvalidOperator,
    InvalidRequest,
    InvalidSettings,
    MissingExtra,
    NotFound,
    ServiceUnavailable,
    Unauthorized,
    did_you_mean,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.metadata import EntryPoint

COMMAND_GROUP = "batchmill.commands"
FAILED, BAD_INPUT, NO_SERVICE, INTERRUPTED, BROKEN_PIPE = 1, 2, 3, 130, 141

_BAD_INPUT = (InvalidRequest, InvalidOperator, InvalidSettings, NotFound, Conflict, MissingExtra)
_EXTRAS = {
    "coordinator": "coordinator",
    "worker": "worker",
    "up": "local",
    "serve": "local",
    "run": "local",
    "demo": "demo",
}

EPILOG = """\b
JOB is an id, the unique beginning of one, a unique name, or `last`.

\b
Examples:
  batchmill run echo docs.jsonl -o out.parquet   (one job, without a service)
  batchmill up                                   (a service on this machine)
  batchmill submit embed docs.jsonl --param model=MODEL --output out/ --wait
  batchmill jobs
  batchmill results JOB -o vectors.parquet

\b
Exit codes:
  0  success
  1  the job failed, was cancelled or expired, or the service did not do what
     was asked
  2  the input is wrong; stderr says what is wrong and how to fix it
  3  the service cannot be reached or does not accept the token
  130  interrupted; a submitted job continues
"""


SECTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Start", ("run", "demo", "up", "serve", "down", "info")),
    ("Jobs", ("submit", "plans", "check", "try", "jobs", "streams", "status", "watch", "top")),
    ("Control", ("pause", "resume", "drain", "cancel", "delete")),
    ("Results", ("results", "peek", "dead", "replay", "redo", "rerun", "logs", "cost", "search", "indexes")),
    ("Service", ("workers", "pools", "autoscale", "operators", "trends", "trials", "cache", "webhooks")),
    ("Processes", ("coordinator", "worker", "flower")),
)
"""The sections of `batchmill --help`; further commands are in a section of their own."""


class CommandGroup(click.Group):
    """Find commands by entry point, and turn every error into one line and an exit code."""

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=COMMAND_GROUP)}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Return the names of all installed commands."""
        return sorted({*self._entries, *self.commands})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's
        """Import a command; one whose extra is not installed reports that when it is run."""
        if cmd_name in self.commands or cmd_name not in self._entries:
            return self.commands.get(cmd_name)
        try:
            command = self._entries[cmd_name].load()
        except (ModuleNotFoundError, MissingExtra) as error:
            command = _missing_command(cmd_name, error)
        self.add_command(command, cmd_name)
        return self.commands[cmd_name]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in sections, each with the first sentence of its help."""
        names = self.list_commands(ctx)
        grouped = {name for _, members in SECTIONS for name in members}
        others = ("Others", tuple(name for name in names if name not in grouped))
        for title, members in (*SECTIONS, others):
            found = [(name, self.get_command(ctx, name)) for name in members if name in names]
            lines = [
                (name, command.get_short_help_str(formatter.width))
                for name, command in found
                if command is not None and not command.hidden
            ]
            if lines:
                with formatter.section(title):
                    formatter.write_dl(lines)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of a command line; the error for an unknown one suggests the nearest names."""
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            hint = did_you_mean(args[0], self.list_commands(ctx))
            raise click.UsageError(f"there is no command {args[0]!r}. {hint}".rstrip(), ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; when the reader of a pipe closes it, exit without a message."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(BROKEN_PIPE)
        except ModuleNotFoundError as error:  # a service's command imports its libraries when it runs
            if ctx.invoked_subcommand not in _EXTRAS:
                raise
            raise _missing_extra(str(ctx.invoked_subcommand), error) from error
        return result

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and exit; in standalone mode an expected error prints no traceback."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name or "batchmill", complete_var, standalone_mode=False, **extra)
        except Exception as error:  # noqa: BLE001  # raised again unless it is expected
            code = _report(error)
        sys.exit(code if isinstance(code, int) else 0)


def _report(error: Exception) -> int:
    """Print an error to stderr and return the exit code. Raises the error again if it is a defect."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return BAD_INPUT
    if isinstance(error, click.Abort):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    if isinstance(error, click.ClickException):
        return print_error(_usage(error), BAD_INPUT)
    if isinstance(error, BatchmillError):
        return print_error(str(error), exit_code(error))
    raise error


def _usage(error: click.ClickException) -> str:
    message = error.format_message()
    message = message[:1].lower() + message[1:]
    for kind in ("integer", "float"):  # a range is click's name of a number with bounds
        message = message.replace(f"not a valid {kind} range", f"not a valid {kind}")
    if isinstance(error, click.NoSuchOption) and error.ctx is not None and error.ctx.info_name in ("submit", "run"):
        name = error.option_name.lstrip("-").replace("-", "_")
        message = f"{message} A parameter of the operator is given as `--param {name}=VALUE`."
    if isinstance(error, click.UsageError) and error.ctx is not None:
        message = f"{message} `{error.ctx.command_path} --help` shows the usage."
    return message


def print_error(message: str, code: int) -> int:
    """Print one line `error: …` to stderr, and return the exit code."""
    from batchmill.wording import printable

    click.echo(f"error: {printable(' '.join(message.split()))}", err=True)
    return code


def exit_code(error: BatchmillError) -> int:
    """Return the exit code for an error."""
    if isinstance(error, (ServiceUnavailable, Unauthorized)):
        return NO_SERVICE
    return BAD_INPUT if isinstance(error, _BAD_INPUT) else FAILED


def _missing_extra(name: str, error: Exception) -> MissingExtra:
    extra = _EXTRAS.get(name)
    hint = f"Install it with: pip install 'batchmill[{extra}]'." if extra else ""
    return MissingExtra(f"`batchmill {name}` needs an extra that is not installed ({error}).", hint=hint)


def _missing_command(name: str, error: Exception) -> click.Command:
    missing_extra = _missing_extra(name, error)

    @click.command(
        name,
        help=f"Not installed. {missing_extra.hint}".rstrip(),
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    def missing() -> None:
        raise missing_extra

    return missing


@click.group(cls=CommandGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="batchmill", message="batchmill %(version)s")
def main() -> None:
    """Run a model over many rows: every row back exactly once, at the speed of the bare model."""
