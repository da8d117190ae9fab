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
    pinned = _pinned(manifest, settings) if settings.model_profile else None
    tags = settings.tags_selector.items()
    matching = tuple(p for p in manifest.profiles if tags <= p.tags.items())
    if not matching:
        offered = sorted({f"{k}={v}" for p in manifest.profiles for k, v in p.tags.items()})
        raise SettingError(
            f"{settings.named('tags_selector')} matches no profile of {manifest.family}. "
            f"Its profiles have {', '.join(offered)}."
        )
    if pinned is None:
        return matching
    if pinned not in matching:
        raise SettingError(
            f"{settings.named('model_profile')} and {settings.named('tags_selector')} contradict "
            "each other: set only one of them."
        )
    return (pinned,)


def asked(settings: Settings) -> str:
    """What the user's settings say about the choice; empty where they say nothing."""
    if settings.model_profile:
        return settings.named("model_profile")
    return settings.named("tags_selector") if settings.tags_selector else ""


def _pinned(manifest: Manifest, settings: Settings) -> Profile:
    """By id, unique beginning of the id, name, or "id (name)" as the listing prints it."""
    key = (settings.model_profile or "").partition(" (")[0].strip(" -")
    found = [p for p in manifest.profiles if key in (p.id, p.name)]
    found = found or [p for p in manifest.profiles if key and p.id.startswith(key)]
    if len(found) == 1:
        return found[0]
    what = "more than one profile" if found else "no profile"
    offered = "".join(f"\n  {p.id} ({p.name})" for p in found or manifest.profiles)
    raise SettingError(
        f"{settings.named('model_profile')} names {what} of {manifest.family}. Use one of:{offered}"
    )


def _check_context(manifest: Manifest, settings: Settings) -> None:
    longest = manifest.shape.max_positions
    if settings.max_model_len is not None and settings.max_model_len > longest:
        raise SettingError(
            f"{settings.named('max_model_len')} is more than {manifest.display_name} was made for. "
            f"Allowed: up to {longest}."
        )
