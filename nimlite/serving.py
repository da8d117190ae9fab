"""The way from a plan to a serving process: the port first, then the model, then the panel."""

import asyncio
import logging
import time

import uvicorn
from rich.console import Console

from nimlite import startup
from nimlite.background import in_daemon
from nimlite.engine.client import EngineClient, EngineHost
from nimlite.engine.supervisor import Supervisor
from nimlite.hosting import EngineFacts, host_engine
from nimlite.models.embedding import EmbeddingSpec
from nimlite.observe.bars import TeeProgress
from nimlite.observe.panel import ready_panel
from nimlite.observe.phases import PhaseLog
from nimlite.observe.progress import Progress
from nimlite.observe.status import plan_status
from nimlite.profiles.nim import nim_manifest
from nimlite.server.api_keys import ApiKeys
from nimlite.server.config import ServerConfig
from nimlite.server.cors import Cors
from nimlite.server.serve import serve
from nimlite.server.state import ServedModel, ServerState
from nimlite.server.tls import tls_context
from nimlite.server.tokenizer import Tokenizer
from nimlite.startup import Plan
from nimlite.store.cache import Store

_log = logging.getLogger(__name__)


def serve_plan(
    plan: Plan, store: Store, progress: Progress, console: Console, *, started: float
) -> None:
    """Serve until a signal ends it. Raises what ends the start: the errors of store and build.

    `started`: when the command began, on the monotonic clock.
    """
    service = _Service(plan, store, progress, console, started)
    loop_factory = uvicorn.Config("", log_config=None).get_loop_factory()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(service.run())


class _Service:
    def __init__(
        self, plan: Plan, store: Store, progress: Progress, console: Console, started: float
    ) -> None:
        settings = plan.settings
        self._plan = plan
        self._store = store
        self._console = console
        self._state = ServerState(
            ServerConfig(
                served_model_names=plan.served_names,
                host=settings.server_host,
                port=settings.server_port,
                keys=ApiKeys.read(
                    settings.api_key,
                    settings.api_keys_file,
                    asked=settings.named("api_keys_file"),
                ),
                tls=tls_context(settings),
                max_waiting=settings.max_queue_size,
                cors=Cors.of(settings),
            )
        )
        self._state.plan = plan_status(plan.machine, plan.selection)
        self._progress = PhaseLog(TeeProgress(progress, self._state.startup), started)
        self._client: EngineClient | None = None
        self._started = started

    async def run(self) -> None:
        try:
            await serve(self._state, self._load)
        finally:
            if self._client is not None:
                self._client.close()

    async def _load(self) -> ServedModel:
        host, facts, tokenizer = await in_daemon(self._prepare)
        self._client = EngineClient(Supervisor(host, self._restart))
        self._announce(generates=facts.embedding is None)
        self._state.plan = plan_status(self._plan.machine, self._plan.selection)
        manifest, chosen = self._plan.selection.manifest, self._plan.selection.chosen
        return ServedModel(
            engine=self._client,
            tokenizer=tokenizer,
            max_model_len=facts.profile.max_model_len,
            shares_context=not host.limits.num_decoder_prompt,
            vocab_size=facts.vocab_size,
            max_num_seqs=facts.profile.max_batch_size,
            embedding=facts.embedding or EmbeddingSpec(),
            generates=facts.embedding is None,
            source=manifest.artifact.shown,
            profile=chosen.profile.id,
            license=manifest.license,
            manifest=nim_manifest(manifest),
        )

    def _prepare(self) -> tuple[EngineHost, EngineFacts, Tokenizer]:
        def start(plan: Plan) -> tuple[EngineHost, EngineFacts]:
            return host_engine(plan, self._store, self._progress)

        self._plan, (host, facts) = startup.first_that_passes(self._plan, start)
        with self._progress.task("Load the tokenizer", None, ""):
            tokenizer = Tokenizer.load(
                facts.directory,
                tool_parser=self._plan.settings.tool_call_parser,
                reasoning_parser=self._plan.settings.reasoning_parser,
            )
            return host, facts, tokenizer

    def _restart(self) -> EngineHost:
        """Of the engine directory that is there by now; its phases take the place of the last
        start's."""
        self._state.startup.phases = []
        host, _ = host_engine(self._plan, self._store, self._state.startup)
        return host

    def _announce(self, *, generates: bool) -> None:
        settings = self._plan.settings
        wildcard = settings.server_host in ("0.0.0.0", "::")
        host = "localhost" if wildcard else settings.server_host
        scheme = "http" if self._state.config.tls is None else "https"
        url = f"{scheme}://{host}:{settings.server_port}"
        name, selection = self._plan.served_names[0], self._plan.selection
        seconds = time.monotonic() - self._started
        _log.info("the start, phase by phase:\n%s", self._progress.table())
        if settings.jsonl_logging:
            _log.info("ready after %.1f s: %s at %s/v1", seconds, name, url)
            return
        panel = ready_panel(
            manifest=selection.manifest,
            candidate=selection.chosen,
            name=name,
            url=url,
            num_threads=self._plan.num_threads,
            seconds=seconds,
            generates=generates,
        )
        self._console.print(panel, highlight=False)
