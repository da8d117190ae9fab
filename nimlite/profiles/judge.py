"""One profile on one machine: whether it runs, in how much memory, and how fast."""

from dataclasses import replace

from nimlite.probe.machine import Gpu, Machine
from nimlite.profiles.candidate import Candidate, Fit, gibibytes
from nimlite.profiles.compatibility import places, unfit
from nimlite.profiles.goal import Aim
from nimlite.profiles.manifest import Device, Manifest, Precision, Profile
from nimlite.profiles.memory import longest_context, plan_memory
from nimlite.profiles.nearest import tuned_distance
from nimlite.profiles.placement import rest
from nimlite.profiles.rates import rates
from nimlite.profiles.roofline import predict
from nimlite.profiles.support import Support
from nimlite.settings import Settings

SHARE = 0.9
"""Of the free memory, unless NIM_KVCACHE_PERCENT says otherwise."""
_DRIVER_BYTES = 768 << 20
"""What the driver keeps of a card's memory at most where nobody uses it."""


def judge(
    manifest: Manifest,
    profile: Profile,
    machine: Machine,
    settings: Settings,
    aim: Aim,
    support: Support,
) -> Candidate:
    """The profile in its best place on the machine."""
    limited = _limited(profile, settings)
    reason = support.reason(manifest, limited)
    if profile.device is Device.GPU:
        reason = reason or unfit(limited, machine)
    if reason:
        candidate = plan(manifest, profile, machine, settings, ())
        return replace(candidate, fit=Fit.INCOMPATIBLE, reason=reason)
    where = [()] if profile.device is Device.CPU else places(limited, machine)
    judged = [_place(manifest, profile, machine, settings, aim, gpus) for gpus in where]
    return max(judged, key=lambda c: (c.fit is Fit.RUNNABLE, c.score, c.memory.budget))


def plan(
    manifest: Manifest,
    profile: Profile,
    machine: Machine,
    settings: Settings,
    gpus: tuple[Gpu, ...],
) -> Candidate:
    """The profile's memory, on `gpus`, on the CPU, or of none; nothing is judged yet."""
    limited = _limited(profile, settings)
    budget = int(_free_bytes(profile, machine, gpus) * (settings.kvcache_percent or SHARE))
    memory = plan_memory(manifest.shape, limited, budget)
    # A pool of nothing belongs to a profile that can't run; its own figure then stays.
    serving = replace(limited, kv_cache_bytes=memory.kv_cache or limited.kv_cache_bytes)
    return Candidate(
        profile=profile,
        serving=serving,
        memory=memory,
        fit=Fit.EXCLUDED,
        reason="",
        gpus=tuple(gpu.index for gpu in gpus),
        others_bytes=max((_held_by_others(gpu) for gpu in gpus), default=0),
        place=_place_name(gpus),
    )


def _place(
    manifest: Manifest,
    profile: Profile,
    machine: Machine,
    settings: Settings,
    aim: Aim,
    gpus: tuple[Gpu, ...],
) -> Candidate:
    candidate = plan(manifest, profile, machine, settings, gpus)
    wanted = candidate.serving.max_model_len
    if not candidate.memory.fits:
        longest = longest_context(manifest.shape, candidate.serving, candidate.memory)
        least = min(wanted, sum(aim.lengths(wanted)))
        if settings.max_model_len is not None or longest < least:
            return _low_memory(candidate, longest)
        shorter = replace(settings, max_model_len=longest)
        candidate = plan(manifest, profile, machine, shorter, gpus)
    load = aim.load(manifest.shape, candidate.serving, candidate.memory, wanted)
    num_threads = settings.num_threads or max(1, machine.cpu.usable_cores - 1)
    place_rates = rates(profile, gpus, machine, num_threads)
    prediction = predict(manifest.shape, candidate.serving, place_rates, load)
    return replace(
        candidate,
        fit=Fit.RUNNABLE,
        prediction=prediction,
        score=aim.score(manifest, profile, candidate.memory, prediction),
        tuned=tuned_distance(profile, gpus[0]) if gpus else 0.0,
        replicas=rest(machine, gpus) if gpus else 0,
    )


def _low_memory(candidate: Candidate, longest: int) -> Candidate:
    memory = candidate.memory
    remedy = f"NIM_MAX_MODEL_LEN={longest}" if longest else None
    a_gpu = " a GPU" if candidate.profile.device is Device.GPU else ""
    reason = (
        f"It needs {gibibytes(memory.needed)}{a_gpu} for a context of "
        f"{candidate.serving.max_model_len} tokens, and may take {gibibytes(memory.budget)}. "
    )
    missing = gibibytes(memory.needed - memory.budget)
    reason += f"{remedy} would make it fit." if remedy else f"It would fit with {missing} more."
    if candidate.others_bytes:
        reason += f" Other processes hold {gibibytes(candidate.others_bytes)} there."
    return replace(
        candidate, fit=Fit.LOW_MEMORY, reason=reason, remedy=remedy, longest_context=longest
    )


def _limited(profile: Profile, settings: Settings) -> Profile:
    """The profile with the user's limits. A share of the memory that the user names is for the KV
    cache to fill, whatever the profile wanted; and of sequences and tokens of a step, what the user
    says of one moves the profile's other: each sequence takes at least a token."""
    sequences, tokens = profile.max_batch_size, profile.max_num_tokens
    return replace(
        profile,
        max_model_len=settings.max_model_len or profile.max_model_len,
        max_batch_size=settings.max_batch_size or min(sequences, settings.max_num_tokens or tokens),
        max_num_tokens=settings.max_num_tokens or max(tokens, settings.max_batch_size or sequences),
        kv_precision=Precision(settings.kv_precision or profile.kv_precision),
        kv_cache_bytes=None if settings.kvcache_percent else profile.kv_cache_bytes,
    )


def _free_bytes(profile: Profile, machine: Machine, gpus: tuple[Gpu, ...]) -> int:
    """Free memory of each device that the profile takes. Where the GPU has none of its own, the
    host's counts: its page cache is not lost to it."""
    if profile.device is Device.CPU:
        return machine.memory.available_bytes // (profile.tp * profile.pp)
    host = machine.memory.available_bytes
    return min((host if gpu.unified_memory else gpu.free_bytes for gpu in gpus), default=0)


def _held_by_others(gpu: Gpu) -> int:
    held = gpu.total_bytes - gpu.free_bytes
    return 0 if gpu.unified_memory or held <= _DRIVER_BYTES else held


def _place_name(gpus: tuple[Gpu, ...]) -> str:
    if not gpus:
        return "the CPU"
    kind = "GPU" if len(gpus) == 1 else "GPUs"
    part = f" {gpus[0].mig.profile}" if gpus[0].mig else ""
    return f"{gpus[0].name}{part} ({kind} {', '.join(str(gpu.index) for gpu in gpus)})"
