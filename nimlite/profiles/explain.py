"""Why a profile stands where it does, in sentences."""

from collections.abc import Sequence
from dataclasses import replace

from nimlite.profiles.candidate import Candidate, Fit, gibibytes
from nimlite.profiles.goal import WORTH, Aim, needed_for, worth
from nimlite.profiles.manifest import Device, Manifest
from nimlite.settings import Goal


def explain(
    manifest: Manifest, ranked: Sequence[Candidate], aim: Aim, asked: str, has_gpus: bool
) -> tuple[Candidate, ...]:
    """Complete the reasons of what runs by what stands after it; `asked`: what the user's settings
    say about the choice, if anything."""
    running = [candidate for candidate in ranked if candidate.fit is Fit.RUNNABLE]
    explained = []
    for index, candidate in enumerate(running):
        after = running[index + 1 :]
        parts = [_speed(candidate)]
        if index == 0 and asked:
            parts.append(f"{asked} asks for it.")
        parts += [_next(manifest, candidate, after, aim), _levels(candidate, aim)]
        if index == 0:
            parts.append(_other_precision(manifest, candidate, after, aim))
            if candidate.profile.gpu and candidate.profile.gpu not in candidate.place:
                parts.append(f"Its limits were tuned for {candidate.profile.gpu}, and suit it too.")
            if has_gpus:
                parts.append(_no_gpu(candidate, ranked))
        parts.append(_memory(candidate))
        if index == 0 and candidate.replicas:
            parts.append(f"The other GPUs could hold {candidate.replicas} more of it.")
        explained.append(replace(candidate, reason=" ".join(part for part in parts if part)))
    return (*explained, *ranked[len(running) :])


def _speed(candidate: Candidate) -> str:
    prediction = candidate.prediction
    assert prediction is not None
    load = prediction.load
    streams = f"{load.concurrency} stream(s) of {load.input_length}/{load.output_length} tokens"
    return (
        f"Predicted on {candidate.place} for {streams}: {prediction.total_tok_s:,.0f} tok/s, first "
        f"token after {prediction.ttft * 1e3:,.0f} ms, then one each "
        f"{prediction.itl * 1e3:.1f} ms."
    )


def _next(manifest: Manifest, candidate: Candidate, after: list[Candidate], aim: Aim) -> str:
    """Against the next in the ranking."""
    if not after:
        return "Nothing else runs after it."
    other = after[0]
    name = other.profile.name
    if candidate.profile.device is not other.profile.device:
        return f"A GPU comes before the CPU, where {name} is next."
    if _misses(candidate, aim) != _misses(other, aim):
        return f"{name} does not keep the service levels."
    gain = _figure(manifest, candidate, aim) / _figure(manifest, other, aim)
    gpus, theirs = candidate.profile.num_gpus, other.profile.num_gpus
    if gpus != theirs:
        return f"It takes {gpus} GPU(s); {name} takes {theirs} for {1 / gain:.2f}x of it."
    if gain > 1.005:
        return f"That is {gain:.2f}x as good as {name}."
    if gain >= 0.995:
        return f"{name} is as good, {_tie(candidate, other, aim)}."
    return f"{name} is {1 / gain:.2f}x as good{_rounding(manifest, other, candidate, aim)}."


def _tie(candidate: Candidate, other: Candidate, aim: Aim) -> str:
    """What decides between equals."""
    if WORTH[candidate.profile.precision] < WORTH[other.profile.precision]:
        return f"and {candidate.profile.precision} rounds less"
    if candidate.profile.goal is not other.profile.goal:
        return f"and made for {other.profile.goal}"
    if candidate.tuned != other.tuned:
        return f"and tuned for {other.profile.gpu or 'no card'}"
    return "and listed after it"


def _other_precision(
    manifest: Manifest, candidate: Candidate, after: list[Candidate], aim: Aim
) -> str:
    """Why a precision that rounds is chosen, where the next in the ranking doesn't tell."""
    finer = [
        other
        for other in after
        if other.profile.device is candidate.profile.device
        and other.profile.num_gpus == candidate.profile.num_gpus
        and worth(manifest, other.profile.precision) < worth(manifest, candidate.profile.precision)
    ]
    if not finer or aim.goal is Goal.MEMORY:
        return ""
    gain = _figure(manifest, candidate, aim) / _figure(manifest, finer[0], aim)
    precision = candidate.profile.precision
    must = worth(manifest, precision) / worth(manifest, finer[0].profile.precision)
    return (
        f"{precision} brings {gain:.2f}x over {finer[0].profile.precision}; its rounding must "
        f"bring {must:.2f}x."
    )


def _no_gpu(chosen: Candidate, ranked: Sequence[Candidate]) -> str:
    """Why it is the CPU: what keeps the likeliest GPU profile off."""
    if chosen.profile.device is Device.GPU:
        return ""
    order = (Fit.LOW_MEMORY, Fit.INCOMPATIBLE)
    kept_off = [c for c in ranked if c.profile.device is Device.GPU and c.fit in order]
    if not kept_off:
        return ""
    first = min(kept_off, key=lambda c: (order.index(c.fit), c.memory.needed))
    return f"No GPU: {first.profile.name} would be it, but: {first.reason}"


def _rounding(manifest: Manifest, other: Candidate, candidate: Candidate, aim: Aim) -> str:
    theirs = worth(manifest, other.profile.precision)
    must = theirs / worth(manifest, candidate.profile.precision)
    return f", but its rounding must bring {must:.2f}x" if must > 1 else ""


def _figure(manifest: Manifest, candidate: Candidate, aim: Aim) -> float:
    """What the goal compares, higher is better."""
    assert candidate.prediction is not None
    if aim.goal is Goal.MEMORY:
        load = candidate.prediction.load
        return 1e9 / needed_for(manifest.shape, candidate.profile, candidate.memory, load)
    if aim.goal is Goal.LATENCY:
        return candidate.prediction.load.concurrency / candidate.prediction.request_seconds
    return candidate.prediction.total_tok_s


def _misses(candidate: Candidate, aim: Aim) -> bool:
    assert candidate.prediction is not None
    return aim.has_levels and not aim.meets(candidate.prediction)


def _levels(candidate: Candidate, aim: Aim) -> str:
    if not aim.has_levels:
        return ""
    verb = "does not keep" if _misses(candidate, aim) else "keeps"
    return f"It {verb} the service levels."


def _memory(candidate: Candidate) -> str:
    memory, serving = candidate.memory, candidate.serving
    a_gpu = " a GPU" if candidate.profile.device is Device.GPU else ""
    needs = f"It needs {gibibytes(memory.needed)} of {gibibytes(memory.budget)}{a_gpu}"
    if serving.max_model_len < candidate.profile.max_model_len:
        needs += f", with a context of {serving.max_model_len} tokens"
    if candidate.others_bytes:
        needs += f"; other processes hold {gibibytes(candidate.others_bytes)} there"
    return f"{needs}."
