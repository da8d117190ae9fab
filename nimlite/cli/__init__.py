"""The commands. Each prints for people, and with --json for programs; nothing here decides.

session.py   what every command works with          options.py   the settings as options
machine.py   probe                                  profiles.py  list-model-profiles
cache.py     download-to-cache, create-model-store  engines.py   convert, build, check, run, serve
             (also download-model), check-cache-env plan.py      what a dry run prints
inventory.py cache ls, rm, verify                   models.py    models
configuration.py  config
"""

import logging
import sys

import typer
from rich.console import Console
from rich.markup import escape

from nimlite.bench.cli import app as bench_app
from nimlite.cli.cache import (
    DownloadCommand,
    check_cache_env,
    create_model_store,
    download_to_cache,
)
from nimlite.cli.configuration import config
from nimlite.cli.engines import build, check, convert, run, serve
from nimlite.cli.inventory import app as cache_app
from nimlite.cli.machine import probe
from nimlite.cli.models import models
from nimlite.cli.profiles import list_model_profiles
from nimlite.errors import NimliteError
from nimlite.settings.flags import normal

app = typer.Typer(
    help="A self-optimizing LLM server: probe, choose, build, prove, serve. Every option that sets "
    "something is a variable, too (--max-model-len: NIM_MAX_MODEL_LEN); `config` shows them all.",
    context_settings={"token_normalize_func": normal},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_MODELS = (models, list_model_profiles, create_model_store, check_cache_env)
_COMMANDS = (probe, *_MODELS, convert, build, check, run, serve, config)
for command in _COMMANDS:
    app.command()(command)
app.command(cls=DownloadCommand)(download_to_cache)
app.command("download-model")(create_model_store)  # as NIM 2 names it
app.add_typer(bench_app, name="bench")
app.add_typer(cache_app, name="cache")
_log = logging.getLogger(__name__)


def main() -> None:
    """The process edge: a known error is one sentence and its exit code."""
    try:
        app()
    except NimliteError as error:
        Console(stderr=True).print(f"[red]{escape(str(error))}[/]", highlight=False, soft_wrap=True)
        _log.debug("where it came from", exc_info=error)
        sys.exit(error.exit_code)
