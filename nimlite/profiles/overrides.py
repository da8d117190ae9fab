"""What the user's settings say about the choice: obeyed, or refused by name."""

from nimlite.errors import SettingError
from nimlite.profiles.manifest import Manifest, Profile
from nimlite.settings import Origin, Settings

_TAGS = {"precision": "precision", "tensor_parallel_size": "tp", "pipeline_parallel_size": "pp"}
"""The settings that ask for one tag each."""


def wanted_profiles(manifest: Manifest, settings: Settings) -> tuple[Profile, ...]:
    """The profiles that the user's pin and selector leave.

    Raises SettingError for a pin or a selector that no profile answers to, for two that contradict
    each other, and for a context longer than the model's.
    """
    _check_context(manifest, settings)
    pinned = _pinned(manifest, settings) if settings.model_profile else None
    tags = _tags(settings)
    matching = tuple(p for p in manifest.profiles if tags.items() <= p.tags.items())
    if not matching:
        known = {(k, v) for p in manifest.profiles for k, v in p.tags.items()}
        wrong = {key for key, value in tags.items() if (key, value) not in known}
        named = wrong & {key for key, _ in known}
        offered = sorted(f"{k}={v}" for k, v in known if k in named or not named)
        raise SettingError(
            f"{_named_tags(settings)} matches no profile of {manifest.family}. "
            f"Its profiles have {', '.join(offered)}."
        )
    if pinned is None:
        return matching
    if pinned not in matching:
        raise SettingError(
            f"{settings.named('model_profile')} and {_named_tags(settings)} contradict each other: "
            "set only one of them."
        )
    return (pinned,)


def asked(settings: Settings) -> str:
    """What the user's settings say about the choice; empty where they say nothing."""
    if settings.model_profile:
        return settings.named("model_profile")
    return _named_tags(settings)


def _tags(settings: Settings) -> dict[str, str]:
    """What the selector and the settings of one tag ask for; of two that differ the higher layer
    wins."""
    layers = tuple(Origin)
    tags = dict(settings.tags_selector)
    for name, tag in _TAGS.items():
        if (value := getattr(settings, name)) is None:
            continue
        if tags.get(tag, str(value)) != str(value):
            own, selector = (layers.index(settings.origin(n)) for n in (name, "tags_selector"))
            if own == selector:
                raise SettingError(
                    f"{settings.named(name)} and {settings.named('tags_selector')} contradict each "
                    "other: set only one of them."
                )
            if own < selector:
                continue
        tags[tag] = str(value)
    return tags


def _named_tags(settings: Settings) -> str:
    """The settings that ask for tags, as the user knows them."""
    return " with ".join(
        settings.named(name) for name in ("tags_selector", *_TAGS) if getattr(settings, name)
    )


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
