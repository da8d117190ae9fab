"""nimlite and its peers side by side on this machine's processor, with the embedded model."""

import importlib.metadata
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nimlite import preparation, startup
from nimlite.bench.client import run_load
from nimlite.bench.huggingface import export_huggingface
from nimlite.bench.peers import nimlite_command, peer_commands
from nimlite.bench.quality import Prepared, Quality, measure_qualities
from nimlite.bench.report import Environment, Report
from nimlite.bench.server import Footprint, ServerCommand, running
from nimlite.bench.timing import Measurement, best, summarize
from nimlite.bench.transformers_generate import SYSTEM, VARIANT, running_generate
from nimlite.bench.workload import Workload, make_prompts
from nimlite.build.checkpoint import open_checkpoint
from nimlite.lookup import find_manifest
from nimlite.observe.progress import Progress
from nimlite.probe import Machine, probe
from nimlite.profiles.manifest import Precision
from nimlite.settings import read_settings
from nimlite.startup import Plan
from nimlite.store.cache import Store

PRECISIONS = (Precision.INT4, Precision.INT8, Precision.BF16, Precision.FP32)
_CALIBRATED = (
    *(Precision.FP8, Precision.INT8_SQ, Precision.INT8_WO),
    *(Precision.INT4_AWQ, Precision.INT4_GPTQ),
)
"""Judged by what they lose alone."""
WORKLOADS = tuple(
    Workload(
        concurrency=concurrency,
        num_requests=num_requests,
        num_prompt_tokens=200,
        num_output_tokens=128,
    )
    for concurrency, num_requests in ((1, 4), (8, 16), (32, 64))
)
_METHOD = (
    "Prompts of about 200 tokens that no two requests share, 128 output tokens each, greedy;"
    " servers and their client share the cores."
)
_WARM_UP = Workload(concurrency=2, num_requests=2, num_prompt_tokens=50, num_output_tokens=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuBench:
    """One run of the benchmark. `say` is told what begins and what came of it."""

    store: Store
    progress: Progress
    say: Callable[[str], None]
    repeats: int
    only: tuple[str, ...]
    """Beginnings of `system/variant`, or of `perplexity`; empty: all."""
    gguf_files: tuple[Path, ...]
    """For llama-server, beside the model's own file."""

    def run(self) -> Report:
        """Everything: build, serve and measure, compare. Raises what the store, the build and a
        system raise."""
        load = os.getloadavg()[0]
        plans = make_plans(self.store, self.progress, PRECISIONS)
        for plan in plans:
            self._prepare(plan)
        file = self.store.fetch(plans[0].selection.manifest.artifact, self.progress)
        checkpoint = open_checkpoint(file)
        qualities: tuple[Quality, ...] = ()
        if self._is_wanted("perplexity"):
            judged = make_plans(self.store, self.progress, (*PRECISIONS, *_CALIBRATED))
            engines = [self._prepare(plan) for plan in judged]
            qualities = measure_qualities(engines, checkpoint, self.progress)
        with tempfile.TemporaryDirectory() as directory:
            export_huggingface(checkpoint, Path(directory))
            results = list(self._measure_systems(plans[0], file, Path(directory)))
        return Report(
            environment=describe(plans[0].machine, load, f"Best of {self.repeats} runs. {_METHOD}"),
            measurements=tuple(m for measurements, _ in results for m in measurements),
            footprints=tuple(footprint for _, footprint in results),
            qualities=qualities,
        )

    def _prepare(self, plan: Plan) -> Prepared:
        backend = startup.prepare_kernels(plan, self.store, self.progress)
        directory = preparation.prepare_engine(plan, self.store, backend, self.progress)
        return Prepared(plan=plan, backend=backend, directory=directory)

    def _measure_systems(
        self, plan: Plan, file: Path, checkpoint: Path
    ) -> Iterator[tuple[list[Measurement], Footprint]]:
        num_threads, most = plan.machine.cpu.usable_cores, WORKLOADS[-1].concurrency
        commands = [
            *(nimlite_command(precision, plan.served_names[0]) for precision in PRECISIONS),
            *peer_commands((file, *self.gguf_files), checkpoint, num_threads, most),
        ]
        for command in commands:
            if self._is_wanted(f"{command.system}/{command.variant}"):
                yield self._serve(command)
        if self._is_wanted(f"{SYSTEM}/{VARIANT}"):
            yield self._generate(checkpoint)

    def _is_wanted(self, name: str) -> bool:
        return not self.only or name.startswith(self.only)

    def _serve(self, command: ServerCommand) -> tuple[list[Measurement], Footprint]:
        self.say(f"{command.system} {command.variant}")
        with running(command) as server:
            run_load(server.target, _WARM_UP, make_prompts(_WARM_UP, seed=-1))

            def measure(workload: Workload, seed: int) -> Measurement:
                load = run_load(server.target, workload, make_prompts(workload, seed))
                return summarize(
                    command.system, command.variant, workload, load.timings, load.client_cpu_s
                )

            return self._measure(measure), server.footprint()

    def _generate(self, checkpoint: Path) -> tuple[list[Measurement], Footprint]:
        self.say(f"{SYSTEM} {VARIANT}")
        with running_generate(checkpoint) as generate:
            generate.run(_WARM_UP, make_prompts(_WARM_UP, seed=-1))

            def measure(workload: Workload, seed: int) -> Measurement:
                timings = generate.run(workload, make_prompts(workload, seed))
                return summarize(SYSTEM, VARIANT, workload, timings)

            return self._measure(measure), generate.footprint()

    def _measure(self, measure: Callable[[Workload, int], Measurement]) -> list[Measurement]:
        found = []
        for i, workload in enumerate(WORKLOADS):
            runs = [measure(workload, i * self.repeats + r) for r in range(self.repeats)]
            found.append(best(runs))
            rates = ", ".join(f"{r.output_tok_s:.0f} ({r.decode_tok_s:.0f})" for r in runs)
            self.say(f"  {workload.name}: {rates} tok/s in total (of one while decoding)")
        return found


def make_plans(store: Store, progress: Progress, precisions: Sequence[Precision]) -> list[Plan]:
    """How the embedded model is served in each precision, by the settings of this process."""
    manifest = find_manifest(None, store, progress)
    machine = probe(store.root)
    tags = [{"tags_selector": f"precision={precision}"} for precision in precisions]
    return [
        startup.make_plan(manifest, machine, read_settings(os.environ, flags)) for flags in tags
    ]


def describe(machine: Machine, load: float, method: str) -> Environment:
    """This machine, this moment and this checkout."""
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers")]
    return Environment(
        machine=f"{machine.cpu.usable_cores} cores of {machine.cpu.model},"
        f" {machine.memory.total_bytes / 2**30:.0f} GiB",
        date=datetime.now(UTC).date().isoformat(),
        commit=_commit(),
        versions=", ".join(versions),
        load=load,
        method=method,
    )


def _commit() -> str:
    command = ("git", "describe", "--always", "--dirty", "--exclude=*")
    found = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"
