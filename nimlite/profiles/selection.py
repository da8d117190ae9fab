"""Which profile serves best here: a pure function from (Manifest, Machine, Settings) to a ranking.

Every profile gets a reason, also those that lost, and the setting that would let it in.
"""

from dataclasses import replace

from nimlite.errors import SettingError
from nimlite.probe.machine import Machine
from nimlite.profiles.candidate import Candidate, Fit, Selection, gibibytes
from nimlite.profiles.explain import explain
from nimlite.profiles.goal import Aim
from nimlite.profiles.hopeless import refusal
from nimlite.profiles.judge import judge, plan
from nimlite.profiles.manifest import Device, Manifest
from nimlite.profiles.overrides import asked, wanted_profiles
from nimlite.profiles.support import THIS_VERSION, Support
from nimlite.settings import Settings

__all__ = ["Candidate", "Fit", "Selection", "gibibytes", "next_precision", "rank", "select"]

_ORDER = {fit: rank for rank, fit in enumerate(Fit)}


def select(
    manifest: Manifest, machine: Machine, settings: Settings, support: Support = THIS_VERSION
) -> Selection:
    """The best profile that runs.

    Where none holds a request of the usual length, and nobody asked for a context, the longest
    context that anything holds is taken. Raises SettingError where nothing runs at all: what is
    missing, and the smallest machine that would do.
    """
    candidates = rank(manifest, machine, settings, support)
    if candidates[0].fit is not Fit.RUNNABLE:
        shorter = _with_less_context(candidates, settings)
        if shorter is None:
            raise SettingError(refusal(manifest, candidates, machine, settings, support))
        candidates = rank(manifest, machine, shorter, support)
    return Selection(manifest=manifest, chosen=candidates[0], candidates=candidates)


def next_precision(selection: Selection) -> Selection | None:
    """The choice among what is left where the engine of the chosen precision failed its self-test;
    None where nothing is left, as where the user asked for it."""
    failed = selection.chosen.profile
    reason = f"The self-test of {failed.name} failed here."
    candidates = tuple(
        replace(candidate, fit=Fit.INCOMPATIBLE, reason=reason)
        if candidate.fit is Fit.RUNNABLE
        and candidate.profile.device is failed.device
        and candidate.profile.precision is failed.precision
        else candidate
        for candidate in selection.candidates
    )
    ranked = tuple(sorted(candidates, key=lambda candidate: _ORDER[candidate.fit]))
    if ranked[0].fit is not Fit.RUNNABLE:
        return None
    chosen = replace(ranked[0], reason=f"{reason} {ranked[0].reason}")
    return replace(selection, chosen=chosen, candidates=(chosen, *ranked[1:]))


def _with_less_context(candidates: tuple[Candidate, ...], settings: Settings) -> Settings | None:
    """The settings with the longest context that a profile holds; None where there is none, or the
    user asked for another."""
    longest = max(candidate.longest_context for candidate in candidates)
    if settings.max_model_len is not None or not longest:
        return None
    return replace(settings, max_model_len=longest)


def rank(
    manifest: Manifest, machine: Machine, settings: Settings, support: Support = THIS_VERSION
) -> tuple[Candidate, ...]:
    """All profiles, judged, best first: what runs, then GPU before CPU, then what keeps the service
    levels on fewest GPUs, then the goal's score.

    Raises SettingError for a pin or a selector that no profile answers to, and for a context
    longer than the model's.
    """
    wanted = {profile.id for profile in wanted_profiles(manifest, settings)}
    aim = Aim.of(settings)
    judged = [
        judge(manifest, profile, machine, settings, aim, support)
        if profile.id in wanted
        else replace(
            plan(manifest, profile, machine, settings, ()),
            reason=f"{asked(settings)} leaves it out.",
        )
        for profile in manifest.profiles
    ]
    ranked = sorted(judged, key=lambda candidate: _rank_key(candidate, aim))
    return explain(manifest, ranked, aim, asked(settings), bool(machine.gpus))


def _rank_key(candidate: Candidate, aim: Aim) -> tuple[object, ...]:
    profile = candidate.profile
    on_cpu = profile.device is Device.CPU
    misses, num_gpus = False, 0
    if aim.has_levels and candidate.prediction is not None:
        misses = not aim.meets(candidate.prediction)
        num_gpus = 0 if misses else profile.num_gpus
    other_goal = profile.goal not in (None, aim.goal)
    return (
        _ORDER[candidate.fit],
        on_cpu,
        misses,
        num_gpus,
        -candidate.score,
        -candidate.longest_context,
        other_goal,
        candidate.tuned,
        profile.id,
    )
