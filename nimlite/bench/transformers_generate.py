"""transformers' `generate` as a system under test: a process that reads jobs and times itself.

    python -m nimlite.bench.transformers_generate CHECKPOINT_DIR

Each line of its input is a batch of texts and their workload, each line of its output the times of
that batch; the first line says that it is ready.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nimlite.bench.server import Footprint, memory_of
from nimlite.bench.timing import RequestTiming
from nimlite.bench.workload import Workload
from nimlite.errors import BenchmarkError

SYSTEM, VARIANT = "transformers", "bf16"


class Generate:
    """The process, ready. `generate` has no scheduler: a workload's requests form one batch."""

    def __init__(self, process: subprocess.Popen[str], started: float) -> None:
        self._process = process
        self._read()
        self._start_s = time.monotonic() - started
        self._ready_rss = memory_of(process.pid, "VmRSS")

    def run(self, workload: Workload, prompts: Sequence[str]) -> tuple[RequestTiming, ...]:
        """Batches of `concurrency` prompts, one after the other."""
        assert self._process.stdin is not None
        timings: list[RequestTiming] = []
        for start in range(0, len(prompts), workload.concurrency):
            batch = prompts[start : start + workload.concurrency]
            job = {"prompts": batch, "num_output_tokens": workload.num_output_tokens}
            print(json.dumps(job), file=self._process.stdin, flush=True)
            timings += [RequestTiming(**fields) for fields in self._read()]
        return tuple(timings)

    def footprint(self) -> Footprint:
        """Of everything up to now."""
        return Footprint(
            system=SYSTEM,
            variant=VARIANT,
            start_s=self._start_s,
            ready_rss=self._ready_rss,
            peak_rss=memory_of(self._process.pid, "VmHWM"),
        )

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError("transformers ended before it had answered; see its error above.")
        return json.loads(line)


@contextlib.contextmanager
def running_generate(checkpoint: Path) -> Iterator[Generate]:
    """Start it with the checkpoint, a Hugging Face directory, and end it with the block."""
    started = time.monotonic()
    arguments = [sys.executable, "-m", __name__, str(checkpoint)]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Generate(process, started)
        finally:
            process.terminate()


def _serve(checkpoint: str) -> None:
    """The process's own side."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    _answer(None)
    for line in sys.stdin:
        job = json.loads(line)
        _answer([asdict(t) for t in _generate(model, tokenizer, **job)])


def _generate(
    model: Any, tokenizer: Any, prompts: list[str], num_output_tokens: int
) -> list[RequestTiming]:
    import torch
    from transformers import StoppingCriteriaList

    sent, arrivals = time.perf_counter(), list[float]()

    def note_time(*_: object, **__: object) -> torch.Tensor:
        arrivals.append(time.perf_counter())
        return torch.zeros(len(prompts), dtype=torch.bool)

    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    model.generate(
        **inputs,
        do_sample=False,
        min_new_tokens=num_output_tokens,
        max_new_tokens=num_output_tokens,
        stopping_criteria=StoppingCriteriaList([note_time]),
        pad_token_id=tokenizer.pad_token_id,
    )
    return [
        RequestTiming(
            sent=sent,
            arrivals=tuple(arrivals),
            num_prompt_tokens=int(mask.sum()),
            num_output_tokens=num_output_tokens,
        )
        for mask in inputs.attention_mask
    ]


def _answer(data: object) -> None:
    print(json.dumps(data), flush=True)  # noqa: T201 - its output is the protocol


if __name__ == "__main__":
    _serve(sys.argv[1])
