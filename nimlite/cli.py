"""The commands. Each prints for people, and with --json for programs; nothing here decides."""

import dataclasses
import json
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.markup import escape

from nimlite import startup
from nimlite.bench.cli import app as bench_app
from nimlite.errors import NimliteError
from nimlite.observe.bars import LineProgress, console_progress
from nimlite.observe.logs import setup_logging
from nimlite.observe.progress import Progress
from nimlite.observe.tables import candidates_table, machine_table
from nimlite.probe import probe
from nimlite.profiles.manifest import Manifest
from nimlite.profiles.selection import Candidate, rank
from nimlite.settings import Settings, read_settings, unknown_variables
from nimlite.store.cache import Store

_STARTED = time.monotonic()
app = typer.Typer(
    help="A self-optimizing LLM server: probe, choose, build, prove, serve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench_app, name="bench")
_log = logging.getLogger(__name__)

ModelArgument = Annotated[
    str | None,
    typer.Argument(
        help="A profile family, a Hugging Face directory, a GGUF file, an engine directory, or "
        "hf://org/name. Default: NIM_MODEL_PATH, else the embedded SmolLM2-135M-Instruct.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ProfileOption = Annotated[
    str | None, typer.Option("--model-profile", help="The profile: id, beginning of it, or name.")
]
TagsOption = Annotated[
    str | None,
    typer.Option("--tags-selector", help="Only profiles with these tags: precision=fp32,tp=1"),
]
ContextOption = Annotated[
    int | None, typer.Option("--max-model-len", help="Context of one request in tokens.")
]

RandomWeightsOption = Annotated[
    bool | None,
    typer.Option("--random-weights", help="Random weights of the model's shapes; no download."),
]


@dataclass(frozen=True, slots=True)
class _Session:
    """What every command works with. Data goes to `out`, talk to `err`."""

    settings: Settings
    store: Store
    out: Console
    err: Console
    progress: Progress

    def write(self, data: object, people: RenderableType, *, as_json: bool) -> None:
        if as_json:
            self.out.file.write(json.dumps(data, indent=2, default=str) + "\n")
        else:
            self.out.print(people, soft_wrap=True)

    def manifest(self) -> Manifest:
        return startup.find_manifest(self.settings.model_path, self.store, self.progress)

    def plan(self) -> startup.Plan:
        return startup.make_plan(self.manifest(), probe(self.settings.cache_path), self.settings)


def _open_session(**flags: object) -> _Session:
    settings = read_settings(os.environ, flags)
    err = Console(stderr=True)
    setup_logging(settings.log_level, jsonl=settings.jsonl_logging, console=err)
    for sentence in unknown_variables(os.environ):
        _log.warning("%s", sentence)
    store = Store(settings.cache_path, offline=settings.offline)
    progress = _progress_log() if settings.jsonl_logging else console_progress(err)
    return _Session(settings, store, Console(), err, progress)


def _progress_log() -> Progress:
    """Progress among the JSON lines, which nothing else may interrupt."""
    return LineProgress(lambda line: _log.info("%s", line))


@app.command("probe")
def probe_command(as_json: JsonOption = False) -> None:
    """Show what this machine has: GPUs, CPU, memory, disk, versions."""
    session = _open_session()
    machine = probe(session.settings.cache_path)
    session.write(json.loads(machine.to_json()), machine_table(machine), as_json=as_json)


@app.command()
def list_model_profiles(
    model: ModelArgument = None,
    model_profile: ProfileOption = None,
    tags_selector: TagsOption = None,
    max_model_len: ContextOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rank the model's profiles for this machine, each with its reason."""
    session = _open_session(
        model_path=model,
        model_profile=model_profile,
        tags_selector=tags_selector,
        max_model_len=max_model_len,
    )
    manifest = session.manifest()
    ranking = rank(manifest, probe(session.settings.cache_path), session.settings)
    data = {"family": manifest.family, "profiles": [_candidate_json(c) for c in ranking]}
    session.write(data, candidates_table(manifest.family, ranking), as_json=as_json)


@app.command()
def download_to_cache(model: ModelArgument = None, as_json: JsonOption = False) -> None:
    """Fetch the model's files into the cache, so that a later start needs no network."""
    session = _open_session(model_path=model)
    artifact = session.manifest().artifact
    path = session.store.fetch(artifact, session.progress)
    session.write({"uri": artifact.uri, "path": str(path)}, str(path), as_json=as_json)


@app.command()
def build(
    model: ModelArgument = None,
    output: Annotated[
        Path | None, typer.Option(help="The engine directory. Default: in the cache.")
    ] = None,
    model_profile: ProfileOption = None,
    tags_selector: TagsOption = None,
    random_weights: RandomWeightsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build the engine that `serve` would run, and prove it; print its directory."""
    session = _open_session(
        model_path=model,
        model_profile=model_profile,
        tags_selector=tags_selector,
        random_weights=random_weights,
    )
    plan = session.plan()
    startup.limit_openmp(os.environ, plan.num_threads)
    kernels = startup.prepare_kernels(plan, session.store, session.progress)
    engine = startup.prepare_engine(plan, session.store, kernels, session.progress, home=output)
    data = {"path": str(engine.path), "key": engine.config.key}
    session.write(data, str(engine.path), as_json=as_json)


@app.command()
def run(
    model: ModelArgument = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="A text to go on from; may be given several times.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate at most.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: the likeliest token.")] = 0.0,
    model_profile: ProfileOption = None,
    tags_selector: TagsOption = None,
    random_weights: RandomWeightsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Generate from prompts without a server."""
    if not prompt:
        raise typer.BadParameter("give at least one --prompt TEXT")
    session = _open_session(
        model_path=model,
        model_profile=model_profile,
        tags_selector=tags_selector,
        random_weights=random_weights,
    )
    plan = session.plan()
    startup.limit_openmp(os.environ, plan.num_threads)
    kernels = startup.prepare_kernels(plan, session.store, session.progress)
    directory = startup.prepare_engine(plan, session.store, kernels, session.progress)
    engine = startup.load_engine(plan, directory, kernels, session.progress)
    from nimlite import SamplingParams

    params = SamplingParams(temperature=temperature, max_tokens=max_tokens)
    answers = engine.generate(prompt, params)
    data = [{"prompt": p, **dataclasses.asdict(a)} for p, a in zip(prompt, answers, strict=True)]
    session.write(data, "\n".join(escape(a.text) for a in answers), as_json=as_json)


@app.command()
def serve(
    model: ModelArgument = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    model_profile: ProfileOption = None,
    tags_selector: TagsOption = None,
    random_weights: RandomWeightsOption = None,
    max_model_len: ContextOption = None,
    max_batch_size: Annotated[int | None, typer.Option(help="Sequences that run at once.")] = None,
    num_threads: Annotated[int | None, typer.Option(help="Compute threads.")] = None,
    cache_path: Annotated[
        Path | None, typer.Option(help="Directory of downloads and engines.")
    ] = None,
) -> None:
    """Serve the OpenAI API, after all that it takes: download, build, proof."""
    session = _open_session(
        model_path=model,
        server_host=host,
        server_port=port,
        model_profile=model_profile,
        tags_selector=tags_selector,
        random_weights=random_weights,
        max_model_len=max_model_len,
        max_batch_size=max_batch_size,
        num_threads=num_threads,
        cache_path=cache_path,
    )
    plan = session.plan()
    startup.limit_openmp(os.environ, plan.num_threads)
    from nimlite.serving import serve_plan

    serve_plan(plan, session.store, session.progress, session.err, started=_STARTED)


def _candidate_json(candidate: Candidate) -> dict[str, Any]:
    profile, memory = candidate.profile, candidate.memory
    return {
        "id": profile.id,
        "name": profile.name,
        "state": candidate.fit,
        "reason": candidate.reason,
        "remedy": candidate.remedy,
        "needed_bytes": memory.needed,
        "memory": dataclasses.asdict(memory),
        "serving": dataclasses.asdict(candidate.serving),
    }


def main() -> None:
    """The process edge: a known error is one sentence and its exit code."""
    try:
        app()
    except NimliteError as error:
        Console(stderr=True).print(f"[red]{escape(str(error))}[/]", highlight=False, soft_wrap=True)
        _log.debug("where it came from", exc_info=error)
        sys.exit(error.exit_code)
