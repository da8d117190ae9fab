"""`nimlite bench`: the commands. Nothing of torch is imported before one of them runs."""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nimlite.bench.ranks_command import ranks
from nimlite.settings.values import DenseBackend

if TYPE_CHECKING:
    from nimlite.engine.engine import Engine

app = typer.Typer(help="Measure nimlite, beside its peers.", no_args_is_help=True)

app.command()(ranks)
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Also write the results here, as JSON lines.")
]


@app.command()
def cpu(
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each; the best counts.")] = 3,
    only: Annotated[
        list[str] | None, typer.Option(help="Only these systems, such as nimlite/int4; repeatable.")
    ] = None,
    gguf: Annotated[
        list[Path] | None, typer.Option(help="One more file for llama-server; repeatable.")
    ] = None,
    json: JsonOption = None,
    write: Annotated[
        Path | None, typer.Option(help="Rewrite the results in this page (docs/performance.md).")
    ] = None,
) -> None:
    """Nimlite, transformers and the peers on PATH serve the embedded model on this processor."""
    from rich.console import Console

    from nimlite.bench.cpu import CpuBench
    from nimlite.bench.peers import missing_peers
    from nimlite.bench.report import markdown, print_report, write_section
    from nimlite.observe.bars import console_progress
    from nimlite.settings import read_settings
    from nimlite.store.cache import Store

    # As an exit, it ends the servers under test, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console()
    for peer in missing_peers():
        console.print(f"{peer}: skipped, it is not on PATH")
    settings = read_settings(os.environ, {})
    bench = CpuBench(
        store=Store(settings.cache_path, offline=settings.offline),
        progress=console_progress(Console(stderr=True)),
        say=lambda line: console.print(line, highlight=False),
        repeats=repeats,
        only=tuple(only or ()),
        gguf_files=tuple(gguf or ()),
    )
    report = bench.run()
    print_report(report, console)
    if json:
        json.write_text(report.json_lines(), encoding="utf-8")
    if write:
        write_section(write, "cpu", markdown(report))


@app.command()
def perplexity(json: JsonOption = None) -> None:
    """What each precision of the embedded model loses against fp32."""
    cpu(only=["perplexity"], json=json)


@app.command()
def offline(
    config: Annotated[Path, typer.Option(help="A Hugging Face config.json, or its directory.")],
    precision: Annotated[
        list[str] | None,
        typer.Option(help="Such as fp8 or int4_awq; repeatable, first what it is compared with."),
    ] = None,
    case: Annotated[
        list[str] | None, typer.Option(help="Only these cases, such as bs1; repeatable.")
    ] = None,
    max_batch_size: Annotated[int, typer.Option(help="Sequences that run at once.")] = 1024,
    max_num_tokens: Annotated[int, typer.Option(help="The token budget of a step.")] = 8192,
    backend: Annotated[
        DenseBackend, typer.Option(help="What computes the dense layers.")
    ] = DenseBackend.TORCH,
    json: JsonOption = None,
    peer: Annotated[
        Path | None, typer.Option(help="A peer's JSON lines; the ratio to it is printed.")
    ] = None,
) -> None:
    """The engine alone on one GPU, with random weights and fixed lengths."""
    from nimlite.bench.offline import (
        CASES,
        Judged,
        OfflineResult,
        bound_tok_s,
        precision_table,
        read_peer,
        read_shape,
        run_offline,
        table,
    )
    from nimlite.profiles.manifest import Precision

    chosen_ones = [Precision(name) for name in precision or ["bf16"]]
    peers: Mapping[str, float] = {}
    spec = read_shape(config)
    judged: list[Judged] = []

    def report(result: OfflineResult) -> None:
        bound = bound_tok_s(spec, result.case, result.precision)
        judged.append(Judged(result=result, bound=bound, peer=peers.get(result.case.name)))
        typer.echo(judged[-1].json_line())

    for chosen in chosen_ones:
        peers = read_peer(peer, chosen) if peer else {}
        run_offline(
            spec,
            chosen,
            [CASES[name] for name in case or CASES],
            report,
            max_batch_size=max_batch_size,
            max_num_tokens=max_num_tokens,
            backend=backend,
        )
        typer.echo(table([one for one in judged if one.result.precision is chosen]))
    if len(chosen_ones) > 1:
        typer.echo(precision_table(judged))
    if json:
        json.write_text("".join(f"{one.json_line()}\n" for one in judged), encoding="utf-8")


@app.command()
def linears(
    config: Annotated[Path, typer.Option(help="A Hugging Face config.json, or its directory.")],
    precision: Annotated[
        list[str] | None, typer.Option(help="Such as int4_awq; repeatable. Default: five of them.")
    ] = None,
    rows: Annotated[
        list[int] | None, typer.Option(min=1, help="Of x; repeatable. Default: 1, 4, 8, 16, 64.")
    ] = None,
    variants: Annotated[int, typer.Option(min=1, help="Configurations to print of each.")] = 1,
    json: JsonOption = None,
) -> None:
    """A layer's products alone on one GPU: checked, and every configuration of them timed."""
    from nimlite.bench.linears import PRECISIONS, ROWS, run_linears, table
    from nimlite.bench.offline import read_shape
    from nimlite.profiles.manifest import Precision

    chosen = tuple(Precision(name) for name in precision) if precision else PRECISIONS
    timed = list(run_linears(read_shape(config), chosen, tuple(rows or ROWS), typer.echo))
    typer.echo(table(timed, variants))
    if json:
        json.write_text("".join(f"{one.json_line()}\n" for one in timed), encoding="utf-8")


@app.command()
def families(
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only models with this in their name, such as mixtral; repeatable."),
    ] = None,
    part: Annotated[
        str, typer.Option(help="Of so many commands that share the models: 1/2 and 2/2.")
    ] = "1/1",
    precision: Annotated[
        list[str] | None, typer.Option(help="Such as fp8; repeatable. Default: bf16.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="That one model may take.")] = 60,
    processes: Annotated[int, typer.Option(min=1, help="That compile at the same time.")] = 4,
    json: JsonOption = None,
) -> None:
    """A public model of each family on one GPU, with random weights: its speed and its bound."""
    from nimlite.bench.apart import Done
    from nimlite.bench.families import FamilyTiming, json_line, run_families, table
    from nimlite.bench.public_configs import CONFIGS
    from nimlite.profiles.manifest import Precision

    index, _, count = part.partition("/")
    wanted = [
        name for name in CONFIGS if not only or any(word.lower() in name.lower() for word in only)
    ]
    found: list[Done[FamilyTiming]] = []
    for done in run_families(
        wanted[int(index) - 1 :: int(count)],
        [Precision(name) for name in precision or ["bf16"]],
        seconds=seconds,
        prepare_processes=processes,
        say=typer.echo,
    ):
        found.append(done)
        typer.echo(json_line(done))
    typer.echo(table(found))
    if json:
        json.write_text("".join(f"{json_line(one)}\n" for one in found), encoding="utf-8")


@app.command()
def greedy(
    model: Annotated[
        str | None, typer.Argument(help="As for `serve`; its profile as NIM_* settings choose it.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option(help="Write what this engine says: the reference for others.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Compare with what another engine has written.")
    ] = None,
) -> None:
    """Whether an engine goes on from eight texts as another one did, for 64 greedy tokens each."""
    from nimlite.bench.greedy import run_greedy

    engine, tokenizer_file = _load(model)
    for line in run_greedy(engine, tokenizer_file, write, against):
        typer.echo(line)


@app.command("soak")
def soak_command(
    model: Annotated[
        str | None, typer.Argument(help="As for `serve`; its profile as NIM_* settings choose it.")
    ] = None,
    requests: Annotated[int, typer.Option(min=10, help="Requests in all.")] = 10_000,
    in_flight: Annotated[int, typer.Option(min=8, help="Requests at a time.")] = 256,
    service: Annotated[
        float | None,
        typer.Option(min=0.1, help="Minutes for which a whole server is asked, instead."),
    ] = None,
    kill_every: Annotated[
        float, typer.Option(min=1, help="Seconds between kills of the server's engine.")
    ] = 120.0,
    log: Annotated[Path | None, typer.Option(help="Where the server's log stays.")] = None,
    json: JsonOption = None,
) -> None:
    """Whether an engine answers in a crowd as it does alone, and leaks nothing, over many requests
    of random lengths with random cancels. With --service: whether a server does, with bad clients,
    slow readers, and kills of its engine."""
    if service is not None:
        _soak_service(model, service, in_flight, kill_every, log, json)
        return
    from nimlite.bench.soak import run_soak

    engine, tokenizer_file = _load(model)
    for line in run_soak(engine, tokenizer_file, requests, in_flight):
        typer.echo(line)


def _soak_service(
    model: str | None,
    minutes: float,
    clients: int,
    kill_every_s: float,
    log: Path | None,
    json: Path | None,
) -> None:
    from nimlite.bench.service_soak import Case, run_service_soak, service_command

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    case = Case(seconds=60 * minutes, clients=clients, kill_every_s=kill_every_s)
    found = run_service_soak(service_command(model), case, log)
    typer.echo(str(found))
    if json:
        json.write_text(f"{found.json_line()}\n", encoding="utf-8")
    raise typer.Exit(code=1 if found.num_problems else 0)


@app.command("structured")
def structured_command(
    model: Annotated[
        str | None, typer.Argument(help="As for `serve`; its profile as NIM_* settings choose it.")
    ] = None,
    schemas: Annotated[int, typer.Option(min=0, help="Random JSON schemas.")] = 1000,
    batch: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 64,
    output_tokens: Annotated[int, typer.Option(min=2, help="Of an answer, at most.")] = 128,
    repeats: Annotated[int, typer.Option(min=0, help="Measurements of the cost.")] = 3,
) -> None:
    """Whether every finished answer under a random JSON schema is valid, and what a grammar costs
    in tokens a second."""
    from nimlite.bench.structured import run_structured

    engine, tokenizer_file = _load(model)
    for line in run_structured(
        engine,
        tokenizer_file,
        num_schemas=schemas,
        batch=batch,
        num_tokens=output_tokens,
        repeats=repeats,
    ):
        typer.echo(line)


def _load(model: str | None) -> "tuple[Engine, Path]":
    """The engine that `serve` would run, and its tokenizer's file."""
    from nimlite import preparation, startup
    from nimlite.cli.session import open_session

    session = open_session({"model_path": model})
    plan = session.plan()
    startup.limit_openmp(os.environ, plan.num_threads)
    backend = startup.prepare_kernels(plan, session.store, session.progress)
    directory = preparation.prepare_engine(plan, session.store, backend, session.progress)
    engine = preparation.load_engine(plan, directory, backend, session.progress)
    return engine, directory.path / "tokenizer.json"


@app.command("serve")
def serve_command(
    config: Annotated[Path, typer.Option(help="A Hugging Face config.json, or its directory.")],
    precision: Annotated[
        list[str] | None, typer.Option(help="bf16 or fp8; repeatable. Default: bf16.")
    ] = None,
    concurrency: Annotated[
        list[int] | None, typer.Option(min=1, help="Clients at once; repeatable. Default: 256.")
    ] = None,
    input_tokens: Annotated[int, typer.Option(min=1, help="Of each prompt.")] = 128,
    output_tokens: Annotated[int, typer.Option(min=2, help="Of each answer.")] = 256,
    max_batch_size: Annotated[int, typer.Option(help="Sequences that run at once.")] = 1024,
    clients: Annotated[int, typer.Option(min=1, help="Processes that the clients share.")] = 4,
    offline: Annotated[
        Path | None,
        typer.Option(help="JSON lines of `bench offline`: the share of its figure is printed."),
    ] = None,
    json: JsonOption = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw throughput against latency here, as SVG.")
    ] = None,
) -> None:
    """`nimlite serve` on one GPU, with random weights, asked by streaming clients."""
    from nimlite.bench import serve
    from nimlite.bench.chart import Series, throughput_latency_svg

    # As an exit, it ends the servers under test, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    case = serve.ServeCase(num_prompt_tokens=input_tokens, num_output_tokens=output_tokens)
    lines: list[str] = []
    drawn: list[Series] = []
    with serve.with_words(config) as directory:
        for chosen in precision or ["bf16"]:
            points: list[serve.ServePoint] = []

            def report(point: serve.ServePoint, points: list[serve.ServePoint] = points) -> None:
                points.append(point)
                lines.append(point.json_line())
                typer.echo(lines[-1])

            serve.run_serve(
                serve.serve_command(directory, chosen, max_batch_size),
                case,
                concurrency or [256],
                report,
                vocab_size=serve.vocab_size(directory),
                num_clients=clients,
                offline=serve.read_offline(offline, chosen) if offline else {},
            )
            typer.echo(serve.table(points))
            drawn.append(Series(chosen, serve.curve(points)))
    if json:
        json.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if picture:
        title = f"Throughput against latency over HTTP, {input_tokens}/{output_tokens} tokens"
        picture.write_text(throughput_latency_svg(title, drawn), encoding="utf-8")


@app.command()
def start(
    model: Annotated[str, typer.Argument(help="As for `serve`.")],
    flag: Annotated[
        list[str] | None,
        typer.Option(help="One more flag of `serve`, as --flag=--random-weights; repeatable."),
    ] = None,
    cache_path: Annotated[
        Path | None, typer.Option(help="An empty directory. Default: a temporary one.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Seconds from the command to the first token over HTTP, with nothing cached and again."""
    from nimlite.bench.start import measure_starts

    lines: list[str] = []
    for one in measure_starts(model, flag or (), cache_path):
        typer.echo(str(one))
        lines.append(f"{one.json_line()}\n")
    if json:
        json.write_text("".join(lines), encoding="utf-8")
