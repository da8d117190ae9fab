"""The settings as options of the commands, made from the fields and their manual.

    @with_settings(Group.MODEL, Group.SERVER)
    def serve(session: Session, dry_run: DryRunOption = False) -> None: ...

gives a command for typer with its own options and one for each setting of those groups (and of
GENERAL, which every command takes); it is called with the session of what was given. The settings
read the options' texts, so that a mistake reads alike wherever it is made.
"""

import functools
import inspect
from collections.abc import Callable
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any

import typer

from nimlite.cli.session import open_session
from nimlite.errors import SettingError
from nimlite.settings.fields import Group, members
from nimlite.settings.flags import is_switch, spellings
from nimlite.settings.given import shown
from nimlite.settings.manual import manual

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print machine, ranking, choice, memory and settings; start nothing."
    ),
]


ManifestOption = Annotated[
    Path | None,
    typer.Option("--manifest-file", "-m", help="A manifest, instead of the model's own."),
]
_MODEL_OPTION = Parameter(
    "model_option",
    Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        str | None,
        typer.Option(
            "--model",
            "--model-uri",
            "--model-repo",
            "--model-dir",
            "--checkpoint-dir",
            metavar="MODEL",
            help="MODEL, as NIM's commands and TensorRT-LLM's take it.",
            rich_help_panel=str(Group.MODEL),
        ),
    ],
)
Command = Callable[..., None]


def with_settings(*groups: Group) -> Callable[[Command], Command]:
    """Give a command the settings of `groups` as options, and itself the session they make."""
    names = [name for group in (*groups, Group.GENERAL) for name in members(group)]
    group_of = {name: group for group in Group for name in members(group)}

    def decorate(command: Command) -> Command:
        options = [_parameter(name, group_of[name]) for name in names]
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        if "model_path" in names:
            options.append(_MODEL_OPTION)

        @functools.wraps(command)
        def run(**given: Any) -> None:
            flags = {name: given.pop(name) for name in names}
            if model := given.pop("model_option", None):
                flags["model_path"] = _one_model(flags["model_path"], model)
            command(open_session(flags), **given)

        # Arguments come first in the help: the model is one.
        parameters = sorted([*own, *options], key=lambda p: p.name != "model_path")
        keywords = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in parameters]
        run.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in keywords}
        return run

    return decorate


def _one_model(argument: str | None, option: str) -> str:
    if argument not in (None, option):
        raise SettingError(
            f"MODEL={shown(argument)} and --model={shown(option)} contradict each other: give only "
            "one of them."
        )
    return option


def _parameter(name: str, group: Group) -> Parameter:
    help_text = manual()[name].replace("[", "\\[")
    info: Any
    if name == "model_path":
        info = typer.Argument(metavar="[MODEL]", help=help_text, show_default=False)
    else:
        options = spellings(name)
        switch = f"{options[0]}/--no-{options[0][2:]}"
        info = typer.Option(
            *((switch,) if is_switch(name) else options),
            help=help_text,
            show_default=False,
            rich_help_panel=str(group),
            metavar=None if is_switch(name) else "VALUE",
        )
    annotation: Any = Annotated[bool | None if is_switch(name) else str | None, info]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
