"""`nimlite download-to-cache`, `create-model-store` and `check-cache-env`: files, for later."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperCommand

from nimlite.cli.options import JsonOption, ManifestOption, with_settings
from nimlite.cli.session import Session
from nimlite.errors import ArtifactError, SettingError
from nimlite.profiles.overrides import wanted_profiles
from nimlite.redaction import public
from nimlite.settings.fields import Group
from nimlite.store.disk import free_bytes, refusal
from nimlite.store.inventory import entries
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
        Path, typer.Option("--model-store", "-m", "--workspace-path", help="The directory to make.")
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


@with_settings()
def check_cache_env(session: Session, as_json: JsonOption = False) -> None:
    """Say whether the cache directory can be used, what is in it, and what downloads will do.

    Ends with 3 where it can't be written.
    """
    settings, root = session.settings, session.store.root
    problem, found = refusal(root), entries(root)
    free, size = free_bytes(root), sum(entry.size for entry in found)
    has_token = bool(os.environ.get("HF_TOKEN", "").strip())
    data = {
        "path": str(root),
        "writable": problem is None,
        "free_bytes": free,
        "entries": len(found),
        "bytes": size,
        "max_bytes": settings.cache_max_bytes,
        "offline": settings.offline,
        "hf_token": has_token,
        "hf_endpoint": public(os.environ.get("HF_ENDPOINT", "https://huggingface.co")),
    }
    state = "can be written" if problem is None else "can only be read"
    network = "not used" if settings.offline else f"used; hf:// is {data['hf_endpoint']}"
    token = "set" if has_token else "not set; only gated and private models need it"
    lines = [
        f"Cache: {root} {state}; {free / 1e9:,.1f} GB free.",
        f"It holds {len(found)} downloads, engines and kernels, {size / 1e9:,.1f} GB.",
        f"Network: {network}.",
        f"HF_TOKEN: {token}.",
    ]
    session.write(data, escape("\n".join(lines)), as_json=as_json)
    if problem is not None:
        raise ArtifactError(problem)


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
