"""Profiles that nobody wrote: a CPU's, split over as many ranks as the user asks for."""

from collections.abc import Mapping
from dataclasses import replace

from nimlite.profiles.manifest import Device, Manifest
from nimlite.settings import Settings


def with_ranks(manifest: Manifest, settings: Settings, *, has_gpus: bool) -> Manifest:
    """The manifest with each of its CPU profiles for `tensor_parallel_size` and
    `pipeline_parallel_size` ranks, too, where one of them is asked for and there is no GPU that the
    user could mean."""
    tp = settings.tensor_parallel_size or 1
    pp = settings.pipeline_parallel_size or 1
    whole = [p for p in manifest.profiles if p.device is Device.CPU and p.tp * p.pp == 1]
    if tp * pp == 1 or has_gpus:
        return manifest
    split = (
        replace(profile, tp=tp, pp=pp, tags=_free(profile.tags)).identified() for profile in whole
    )
    return replace(manifest, profiles=(*manifest.profiles, *split))


def _free(tags: Mapping[str, str]) -> dict[str, str]:
    """Without those that say how it is split."""
    return {key: value for key, value in tags.items() if key not in ("tp", "pp")}
