"""Why a profile stands where it does, in sentences."""

from dataclasses import replace

from nimlite.profiles.candidate import Candidate, Fit, gibibytes
from nimlite.profiles.goal import Aim, worth
from nimlite.profiles.manifest import Device, Manifest
from nimlite.settings import Goal


def explain(
    manifest: Manifest, ranked: list[Candidate], aim: Aim, asked: str
) -> tuple[Candidate, ...]:
    """Complete the reasons of what runs by what stands next to it."""
    running = [candidate for candidate in ranked if candidate.fit is Fit.RUNNABLE]
    explained = []
    for index, candidate in enumerate(running):
        following = running[index + 1] if index + 1 < len(running) else None
        parts = [
            _rank(manifest, candidate, following, aim, asked if index == 0 else ""),
            _levels(candidate, aim),
            _memory(candidate),
            _replicas(candidate) if index == 0 else "",
        ]
        explained.append(replace(candidate, reason=" ".join(part for part in parts if part)))
    return (*explained, *ranked[len(running) :])


def _rank(
    manifest: Manifest, candidate: Candidate, following: Candidate | None, aim: Aim, asked: str
) -> str:
    speed = _speed(candidate, aim)
    if following is None:
        why = f"the only one that {asked} allows" if asked else "nothing else runs after it"
        return f"{speed}; {why}."
    name = following.profile.name
    if candidate.profile.device is not following.profile.device:
        return f"{speed}; a GPU comes before the CPU, where {name} is next."
    ours, theirs = _figure(candidate, aim), _figure(following, aim)
    if candidate.profile.num_gpus != following.profile.num_gpus:
        gpus = candidate.profile.num_gpus, following.profile.num_gpus
        return f"{speed} on {gpus[0]} GPU(s); {name} reaches {theirs:,.4g} on {gpus[1]}."
    if ours < theirs:
        rounding = worth(manifest, following.profile.precision)
        return (
            f"{speed}; {name} is {theirs / ours:.2f}x as good, but its rounding must bring "
            f"{rounding / worth(manifest, candidate.profile.precision):.2f}x."
        )
    return f"{speed}, {ours / theirs:.2f}x as good as {name}."


def _figure(candidate: Candidate, aim: Aim) -> float:
    """What the goal compares, higher is better."""
    assert candidate.prediction is not None
    if aim.goal is Goal.MEMORY:
        return 1e9 / candidate.memory.needed
    if aim.goal is Goal.LATENCY:
        return 1 / candidate.prediction.request_seconds
    return candidate.prediction.total_tok_s


def _speed(candidate: Candidate, aim: Aim) -> str:
    prediction = candidate.prediction
    assert prediction is not None
    load = prediction.load
    streams = f"{load.concurrency} stream(s) of {load.input_length}/{load.output_length} tokens"
    return (
        f"Predicted for {streams}: {prediction.total_tok_s:,.0f} tok/s, first token after "
        f"{prediction.ttft * 1e3:,.0f} ms, then one each {prediction.itl * 1e3:.1f} ms"
    )


def _levels(candidate: Candidate, aim: Aim) -> str:
    if not aim.has_levels:
        return ""
    assert candidate.prediction is not None
    return (
        "It keeps the service levels."
        if aim.meets(candidate.prediction)
        else ("It does not keep the service levels.")
    )


def _memory(candidate: Candidate) -> str:
    memory, serving = candidate.memory, candidate.serving
    a_gpu = " a GPU" if candidate.profile.device is Device.GPU else ""
    needs = f"It needs {gibibytes(memory.needed)} of {gibibytes(memory.budget)}{a_gpu}"
    if serving.max_model_len < candidate.profile.max_model_len:
        return f"{needs}, with a context of {serving.max_model_len} tokens."
    return f"{needs}."


def _replicas(candidate: Candidate) -> str:
    if not candidate.replicas:
        return ""
    return f"The other GPUs could hold {candidate.replicas} more of it."
