"""What the user's settings say about the choice: obeyed, or refused by name."""

from nimlite.errors import SettingError
from nimlite.profiles.manifest import Manifest, Profile
from nimlite.settings import Settings


def wanted_profiles(manifest: Manifest, settings: Settings) -> tuple[Profile, ...]:
    """The profiles that the user's pin and selector leave.

    Raises SettingError for a pin or a selector that no profile answers to, for two that contradict
    each other, and for a context longer than the model's.
    """
    _check_context(manifest, settings)
    pinned = _pinned(manifest, settings.model_profile) if settings.model_profile else None
    tags = settings.tags_selector.items()
    matching = tuple(p for p in manifest.profiles if tags <= p.tags.items())
    if not matching:
        offered = sorted({f"{k}={v}" for p in manifest.profiles for k, v in p.tags.items()})
        raise SettingError(
            f"NIM_TAGS_SELECTOR={_selector(settings)} matches no profile of {manifest.family}. "
            f"Its profiles have {', '.join(offered)}."
        )
    if pinned is None:
        return matching
    if pinned not in matching:
        raise SettingError(
            f"NIM_MODEL_PROFILE={settings.model_profile} and NIM_TAGS_SELECTOR="
            f"{_selector(settings)} contradict each other: set only one of them."
        )
    return (pinned,)


def asked(settings: Settings) -> str:
    """What the user's settings say about the choice; empty where they say nothing."""
    if settings.model_profile:
        return f"NIM_MODEL_PROFILE={settings.model_profile}"
    return f"NIM_TAGS_SELECTOR={_selector(settings)}" if settings.tags_selector else ""


def _pinned(manifest: Manifest, asked_for: str) -> Profile:
    """By id, unique beginning of the id, name, or "id (name)" as the listing prints it."""
    key = asked_for.partition(" (")[0].strip()
    found = [p for p in manifest.profiles if key in (p.id, p.name)]
    found = found or [p for p in manifest.profiles if key and p.id.startswith(key)]
    if len(found) == 1:
        return found[0]
    what = "more than one profile" if found else "no profile"
    offered = "".join(f"\n  {p.id} ({p.name})" for p in found or manifest.profiles)
    raise SettingError(
        f"NIM_MODEL_PROFILE={asked_for} names {what} of {manifest.family}. Use one of:{offered}"
    )


def _check_context(manifest: Manifest, settings: Settings) -> None:
    longest = manifest.shape.max_positions
    if settings.max_model_len is not None and settings.max_model_len > longest:
        raise SettingError(
            f"NIM_MAX_MODEL_LEN={settings.max_model_len} is more than {manifest.display_name} "
            f"was made for. Allowed: up to {longest}."
        )


def _selector(settings: Settings) -> str:
    return ",".join(f"{key}={value}" for key, value in settings.tags_selector.items())
