"""`nimlite download-to-cache` and `create-model-store`: a model's files, for later or elsewhere."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from nimlite.cli.options import JsonOption, ManifestOption, with_settings
from nimlite.cli.session import Session
from nimlite.errors import SettingError
from nimlite.profiles.overrides import wanted_profiles
from nimlite.settings.fields import Group
from nimlite.store.model_store import create_model_store as make_store

_PROFILES = ("--profiles", "--profile", "-p")


class DownloadCommand(TyperCommand):
    """Takes several profiles after one -p, as NIM's command does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_spread(args)))


@with_settings(Group.MODEL)
def download_to_cache(
    session: Session,
    profiles: Annotated[
        list[str] | None,
        typer.Option(*_PROFILES, help="For these profiles. All of a model share its files."),
    ] = None,
    all_profiles: Annotated[bool, typer.Option("--all", help="For all profiles.")] = False,
    lora: Annotated[bool, typer.Option("--lora", help="For the profiles with LoRA.")] = False,
    manifest_file: ManifestOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch the model's files into the cache, so that a later start needs no network."""
    manifest = session.manifest(manifest_file)
    if lora:
        raise SettingError(
            f"--lora: {manifest.family} has no profile with LoRA, for adapters are not served yet. "
            "Leave it out to fetch the model."
        )
    if all_profiles and profiles:
        raise SettingError("--all and --profiles contradict each other: give only one of them.")
    for profile in profiles or ():
        wanted_profiles(manifest, replace(session.settings, model_profile=profile))
    path = session.store.fetch(manifest.artifact, session.progress)
    data = {"uri": manifest.artifact.shown, "path": str(path)}
    session.write(data, str(path), as_json=as_json)


@with_settings(Group.MODEL, Group.CHOICE)
def create_model_store(
    session: Session,
    model_store: Annotated[
        Path, typer.Option("--model-store", "-m", help="The directory to make.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Put the model into a directory that `serve` takes, on a machine without a network too.

    It offers the profile that is asked for, or all. For an engine, which only machines alike can
    run, there is `build --out`.
    """
    manifest = session.manifest()
    manifest = replace(manifest, profiles=wanted_profiles(manifest, session.settings))
    source = session.store.fetch(manifest.artifact, session.progress)
    home = make_store(manifest, source, model_store.expanduser().absolute(), session.progress)
    data = {"path": str(home), "profiles": [profile.id for profile in manifest.profiles]}
    session.write(data, str(home), as_json=as_json)


def _spread(args: Sequence[str]) -> Iterator[str]:
    """-p a b -> -p a -p b"""
    option, is_first = "", False
    for arg in args:
        if arg.startswith("-"):
            option, is_first = arg if arg in _PROFILES else "", True
        elif option and not is_first:
            yield option
        else:
            is_first = False
        yield arg
