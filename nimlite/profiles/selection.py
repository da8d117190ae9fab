"""Which profile serves best here: a pure function from (Manifest, Machine, Settings) to a ranking.

Every profile gets a reason, also those that lost, and the setting that would let it in.
"""

import enum
from dataclasses import dataclass, replace

from nimlite.errors import SettingError
from nimlite.probe.machine import Machine
from nimlite.profiles.manifest import Device, Manifest, Profile
from nimlite.profiles.memory import MemoryPlan, longest_context, plan_memory
from nimlite.settings import Settings

_SHARE = 0.9
"""Of the free memory, unless NIM_KVCACHE_PERCENT says otherwise."""


class Fit(enum.StrEnum):
    """What a profile is on this machine, best first."""

    RUNNABLE = "runnable"
    LOW_MEMORY = "low memory"
    INCOMPATIBLE = "incompatible"
    EXCLUDED = "excluded"
    """The user's settings leave it out."""


_ORDER = {fit: rank for rank, fit in enumerate(Fit)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One profile, judged."""

    profile: Profile
    """As the manifest has it: what an engine is built for."""
    serving: Profile
    """As it will run: with the user's limits, and with the KV cache that the memory allows."""
    memory: MemoryPlan
    fit: Fit
    reason: str
    """One sentence: why it is chosen, or why not."""
    remedy: str | None = None
    """The setting that would make it fit, such as NIM_MAX_MODEL_LEN=4096."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The choice, and all that it was chosen from, best first."""

    manifest: Manifest
    chosen: Candidate
    candidates: tuple[Candidate, ...]


def select(manifest: Manifest, machine: Machine, settings: Settings) -> Selection:
    """The best profile that runs. Raises SettingError with all reasons where none does."""
    candidates = rank(manifest, machine, settings)
    if candidates[0].fit is not Fit.RUNNABLE:
        reasons = "".join(f"\n  {c.profile.name}: {c.reason}" for c in candidates)
        raise SettingError(f"No profile of {manifest.family} can run here:{reasons}")
    return Selection(manifest=manifest, chosen=candidates[0], candidates=candidates)


def rank(manifest: Manifest, machine: Machine, settings: Settings) -> tuple[Candidate, ...]:
    """All profiles, judged, best first: what runs, then GPU before CPU, then the faster.

    Raises SettingError for a pin or a selector that no profile answers to, and for a context
    longer than the model's.
    """
    _check_context(manifest, settings)
    wanted = _wanted(manifest, settings)
    judged = (
        _judge(manifest, profile, machine, settings)
        if profile in wanted
        else _excluded(manifest, profile, machine, settings)
        for profile in manifest.profiles
    )
    ranked = sorted(judged, key=_rank_key)
    return tuple(_compare(candidate, ranked[0], settings) for candidate in ranked)


def _rank_key(candidate: Candidate) -> tuple[int, bool, float, str]:
    profile = candidate.profile
    on_cpu = profile.device is Device.CPU
    return _ORDER[candidate.fit], on_cpu, -profile.relative_speed, profile.id


def _judge(manifest: Manifest, profile: Profile, machine: Machine, settings: Settings) -> Candidate:
    candidate = _plan(manifest, profile, machine, settings)
    memory = candidate.memory
    if profile.num_gpus > len(machine.gpus):
        seen = machine.gpu_problem or f"The machine has {len(machine.gpus)}."
        reason = f"It needs {profile.num_gpus} GPU(s). {seen}"
        return replace(candidate, fit=Fit.INCOMPATIBLE, reason=reason)
    if memory.fits:
        return replace(candidate, fit=Fit.RUNNABLE)
    longest = longest_context(manifest.spec, profile, memory)
    remedy = f"NIM_MAX_MODEL_LEN={longest}" if longest else None
    missing = gibibytes(memory.needed - memory.budget)
    reason = (
        f"It needs {gibibytes(memory.needed)} for a context of {candidate.serving.max_model_len} "
        f"tokens, and may take {gibibytes(memory.budget)}. "
    ) + (f"{remedy} would make it fit." if remedy else f"It would fit with {missing} more.")
    return replace(candidate, fit=Fit.LOW_MEMORY, reason=reason, remedy=remedy)


def _plan(manifest: Manifest, profile: Profile, machine: Machine, settings: Settings) -> Candidate:
    limited = _limited(profile, settings)
    budget = int(_free_bytes(profile, machine) * (settings.kvcache_percent or _SHARE))
    memory = plan_memory(manifest.spec, limited, budget)
    # A pool of nothing belongs to a profile that can't run; its own figure then stays.
    serving = replace(limited, kv_cache_bytes=memory.kv_cache or limited.kv_cache_bytes)
    return Candidate(profile=profile, serving=serving, memory=memory, fit=Fit.EXCLUDED, reason="")


def _limited(profile: Profile, settings: Settings) -> Profile:
    """The profile with the user's limits. A share of the memory that the user names is for the KV
    cache to fill, whatever the profile wanted."""
    return replace(
        profile,
        max_model_len=settings.max_model_len or profile.max_model_len,
        max_batch_size=settings.max_batch_size or profile.max_batch_size,
        max_num_tokens=settings.max_num_tokens or profile.max_num_tokens,
        kv_cache_bytes=None if settings.kvcache_percent else profile.kv_cache_bytes,
    )


def _free_bytes(profile: Profile, machine: Machine) -> int:
    """Free memory of each device that the profile takes; of GPUs the emptiest are taken."""
    if profile.device is Device.CPU:
        return machine.memory.available_bytes
    most_free = sorted((gpu.free_bytes for gpu in machine.gpus), reverse=True)
    return min(most_free[: profile.num_gpus], default=0)


def _excluded(
    manifest: Manifest, profile: Profile, machine: Machine, settings: Settings
) -> Candidate:
    reason = f"{_asked(settings)} leaves it out."
    return replace(_plan(manifest, profile, machine, settings), reason=reason)


def _compare(candidate: Candidate, best: Candidate, settings: Settings) -> Candidate:
    """Complete the reason of what runs by its place in the ranking."""
    if candidate.fit is not Fit.RUNNABLE:
        return candidate
    if candidate is not best:
        factor = best.profile.relative_speed / candidate.profile.relative_speed
        return replace(
            candidate, reason=f"It fits, but {best.profile.name} is {factor:.1f}x as fast."
        )
    asked = _asked(settings)
    why = f"The fastest that {asked} allows" if asked else "The fastest that fits"
    memory = candidate.memory
    needs = f"it needs {gibibytes(memory.needed)} of {gibibytes(memory.budget)}"
    return replace(candidate, reason=f"{why}: {needs}.")


def _wanted(manifest: Manifest, settings: Settings) -> tuple[Profile, ...]:
    """The profiles that the user's pin and selector leave."""
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


def _pinned(manifest: Manifest, asked: str) -> Profile:
    """By id, unique beginning of the id, name, or "id (name)" as the listing prints it."""
    key = asked.partition(" (")[0].strip()
    found = [p for p in manifest.profiles if key in (p.id, p.name)]
    found = found or [p for p in manifest.profiles if p.id.startswith(key)]
    if len(found) == 1:
        return found[0]
    what = "more than one profile" if found else "no profile"
    offered = "".join(f"\n  {p.id} ({p.name})" for p in found or manifest.profiles)
    raise SettingError(
        f"NIM_MODEL_PROFILE={asked} names {what} of {manifest.family}. Use one of:{offered}"
    )


def _check_context(manifest: Manifest, settings: Settings) -> None:
    longest = manifest.spec.max_positions
    if settings.max_model_len is not None and settings.max_model_len > longest:
        raise SettingError(
            f"NIM_MAX_MODEL_LEN={settings.max_model_len} is more than {manifest.display_name} "
            f"was made for. Allowed: up to {longest}."
        )


def _asked(settings: Settings) -> str:
    """What the user's settings say about the choice; empty where they say nothing."""
    if settings.model_profile:
        return f"NIM_MODEL_PROFILE={settings.model_profile}"
    return f"NIM_TAGS_SELECTOR={_selector(settings)}" if settings.tags_selector else ""


def _selector(settings: Settings) -> str:
    return ",".join(f"{key}={value}" for key, value in settings.tags_selector.items())


def gibibytes(num_bytes: int) -> str:
    """Such as 1.25 GiB."""
    return f"{num_bytes / (1 << 30):.2f} GiB"
