"""`nimlite convert`, `build`, `check`, `run` and `serve`: what makes an engine and uses it."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from nimlite import preparation, startup
from nimlite.cli.options import DryRunOption, JsonOption, with_settings
from nimlite.cli.plan import plan_json, plan_view
from nimlite.cli.session import Session
from nimlite.errors import SelfTestError
from nimlite.observe.phases import PhaseLog
from nimlite.settings.fields import Group
from nimlite.startup import Plan

if TYPE_CHECKING:
    from nimlite.build.engine_dir import EngineDirectory
    from nimlite.build.explain import Pass
    from nimlite.engine.backend import Backend


_OUTPUTS = ("--out", "--output", "--output-dir")
SourceOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="The checkpoint that it was made of, to prove it against. Default: where it was then.",
    ),
]


@with_settings(Group.MODEL, Group.CHOICE, Group.BUILD, Group.LIMITS)
def convert(
    session: Session,
    output: Annotated[Path, typer.Option(*_OUTPUTS, help="The converted checkpoint.")],
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a model, as the first of two steps: its weights fused, quantized and named as an
    engine holds them. `nimlite build` takes the directory as its MODEL."""
    if dry_run:
        return _show_plan(session, as_json)
    session.require_this_machine()
    plan = session.plan()
    startup.limit_openmp(os.environ, plan.num_threads)
    home = output.expanduser().resolve()
    made = preparation.prepare_converted(plan, session.store, session.progress, home)
    profile = made.config.profile
    data = {
        "path": str(made.path),
        "profile": profile.name,
        "precision": profile.precision,
        "source": made.config.source,
        "bytes": sum(digests.size for digests in made.config.weights.values()),
    }
    session.write(data, escape(str(made.path)), as_json=as_json)


@with_settings(Group.MODEL, Group.CHOICE, Group.BUILD, Group.LIMITS)
def build(
    session: Session,
    output: Annotated[
        Path | None, typer.Option(*_OUTPUTS, help="The engine directory. Default: in the cache.")
    ] = None,
    source: SourceOption = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Print what each pass changed and saved, and how long each step took."
        ),
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Build the engine that `serve` would run, and prove it; print its directory.

    Of a converted checkpoint, or of another engine, the weights are taken as they are.
    """
    if dry_run:
        return _show_plan(session, as_json)
    phases = PhaseLog(session.progress, session.started)
    session = dataclasses.replace(session, progress=phases)
    plan, backend, directory = _prepare(session, output, source)
    data: dict[str, object] = {
        "path": str(directory.path),
        "key": directory.config.key,
        "phases": [dataclasses.asdict(phase) for phase in phases.phases],
    }
    lines = [str(directory.path)]
    if explain:
        passes = _passes(plan, backend, directory)
        data["passes"] = [dataclasses.asdict(each) for each in passes]
        lines += [f"{each.name}: {each.changed}. Saved: {each.saved}." for each in passes]
        lines += ["", phases.table()]
    session.write(data, escape("\n".join(lines)), as_json=as_json)


@with_settings(Group.MODEL)
def check(
    session: Session,
    source: SourceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove the engine in the directory MODEL again, against the checkpoint that it was built of.

    Prints what it found, and ends with 4 where the engine is not good enough.
    """
    session.require_this_machine()
    if session.settings.model_path is None:
        raise typer.BadParameter("give the engine's directory, as `nimlite build` prints it")
    from nimlite.build.engine_dir import open_engine
    from nimlite.build.proof import measure_again
    from nimlite.build.quality import require_quality

    built = open_engine(Path(session.settings.model_path).expanduser().resolve())
    plan = session.plan()
    startup.limit_openmp(os.environ, plan.num_threads)
    backend = startup.prepare_kernels(plan, session.store, session.progress)
    checkpoint = preparation.read_source(
        built, plan.settings, session.store, session.progress, source
    )
    proof, failure = None, None
    try:
        proof = measure_again(built, checkpoint, session.progress, backend)
        require_quality(proof, built.config.profile.precision)
    except SelfTestError as error:
        failure = error
    data = {
        "path": str(built.path),
        "passed": failure is None,
        "reason": str(failure) if failure else None,
        **(dataclasses.asdict(proof) if proof else {}),
    }
    session.write(data, escape(f"{built.path}: {proof or 'no figures'}"), as_json=as_json)
    if failure:
        raise failure


@with_settings(Group.MODEL, Group.CHOICE, Group.BUILD, Group.LIMITS)
def run(
    session: Session,
    prompt: Annotated[
        list[str] | None, typer.Option(help="A text to go on from; may be given several times.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate at most.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: the likeliest token.")] = 0.0,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Generate from prompts without a server."""
    if dry_run:
        return _show_plan(session, as_json)
    if not prompt:
        raise typer.BadParameter("give at least one --prompt TEXT")
    session = session.with_a_cache()
    plan, backend, directory = _prepare(session)
    engine = preparation.load_engine(plan, directory, backend, session.progress)
    from nimlite import SamplingParams

    params = SamplingParams(temperature=temperature, max_tokens=max_tokens)
    answers = engine.generate(prompt, params)
    engine.close()
    data = [{"prompt": p, **dataclasses.asdict(a)} for p, a in zip(prompt, answers, strict=True)]
    session.write(data, "\n".join(escape(a.text) for a in answers), as_json=as_json)


@with_settings(Group.MODEL, Group.CHOICE, Group.BUILD, Group.LIMITS, Group.SERVER)
def serve(
    session: Session,
    dry_run: DryRunOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the dry run as JSON.")] = False,
) -> None:
    """Serve the OpenAI API, after all that it takes: download, build, proof."""
    if dry_run:
        return _show_plan(session, as_json)
    session.require_this_machine()
    session = session.with_a_cache()
    plan = session.plan()
    startup.limit_openmp(os.environ, plan.num_threads)
    from nimlite.serving import serve_plan

    serve_plan(plan, session.store, session.progress, session.err, started=session.started)


def _passes(plan: Plan, backend: "Backend", directory: "EngineDirectory") -> tuple["Pass", ...]:
    from nimlite.build.explain import explain
    from nimlite.engine.cpu import CpuBackend

    memory = plan.selection.chosen.memory
    if isinstance(backend, CpuBackend):
        return explain(directory, memory, backend.kernels)
    from nimlite.kernels.triton.kernel_cache import KernelCache

    kept = KernelCache(directory.path / "kernels", backend.device).kept()
    return explain(directory, memory, kept)


def _show_plan(session: Session, as_json: bool) -> None:
    plan = session.plan()
    session.write(plan_json(plan), plan_view(plan), as_json=as_json)


def _prepare(
    session: Session, home: Path | None = None, source: str | None = None
) -> tuple[Plan, "Backend", "EngineDirectory"]:
    """The first engine that passes its self-test, in `home` or in the cache."""
    session.require_this_machine()
    plan = session.plan()
    startup.limit_openmp(os.environ, plan.num_threads)
    home = home and home.expanduser().resolve()

    def build(plan: Plan) -> tuple["Backend", "EngineDirectory"]:
        backend = startup.prepare_kernels(plan, session.store, session.progress)
        return backend, preparation.prepare_engine(
            plan, session.store, backend, session.progress, home=home, source=source
        )

    plan, (backend, directory) = startup.first_that_passes(plan, build)
    return plan, backend, directory
