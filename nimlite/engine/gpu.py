"""Engines on one GPU: weights there, a KV pool of what they leave, tokens sampled there."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from nimlite.build.engine_dir import EngineDirectory
from nimlite.build.selftest import Candidate
from nimlite.build.sharding import shard_shape, shard_sources
from nimlite.engine.buffer_sizes import kv_layout
from nimlite.engine.dense import Dense, DenseLayers
from nimlite.engine.device_sampler import DeviceSampler
from nimlite.engine.engine import Engine
from nimlite.engine.evaluate import Evaluation
from nimlite.engine.request import SamplingParams
from nimlite.engine.speculation import Speculation, Speculator
from nimlite.errors import SettingError
from nimlite.kernels.base import Batch, Forward, KVLayout, Step
from nimlite.kernels.torch_kernels import used_part
from nimlite.kernels.triton.kernel_cache import KernelCache
from nimlite.kernels.triton.kernels import TritonKernels
from nimlite.kernels.triton.linear import ROW_BUCKETS
from nimlite.kernels.triton.tuning import choose, compile_candidates
from nimlite.kernels.triton.weight_only import BITS
from nimlite.kernels.triton.weights import BF16_ROWS, FP8_ROWS, FP16_ROWS, INT8_ROWS, W4A16, W8A16
from nimlite.layers.decoder import Decoder
from nimlite.layers.linear import Weights
from nimlite.layers.shard import WHOLE, Shard
from nimlite.models.embedding import Pooling
from nimlite.models.registry import weight_sources
from nimlite.models.spec import ModelSpec
from nimlite.observe.progress import SILENT, Progress
from nimlite.profiles.manifest import Precision, Profile
from nimlite.profiles.selection import gibibytes
from nimlite.quant.base import PackedWeight, Scheme
from nimlite.settings.values import DenseBackend

_MEMORY_SHARE = 0.96
"""Of the memory that is free at first, where nobody says how much to take."""
_RESERVED_BYTES = 512 << 20
"""Recorded graphs and the sampler's buffers."""
_CONTEXT_BYTES = 768 << 20
"""What CUDA itself takes: the context, and the code of the kernels."""
_NUM_DECODED = 16
"""Tokens of each of the self-test's texts that are computed one by one."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuBackend:
    """A GPU. Plain data, so that it can be made in another process."""

    profile: Profile
    """As it runs. Its `kv_cache_bytes` None: as much as the largest step leaves."""
    memory_bytes: int | None = None
    """What the engine may take on the device, the KV pool included."""
    index: int = 0
    backend: DenseBackend | None = None
    """What was asked for to compute the dense layers; None: what the engine was built for."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", self.index)

    @property
    def keeps_weights(self) -> bool:
        return True

    def dense(self, spec: ModelSpec) -> str:
        return self._dense_layers.named(spec)

    def scheme(self, name: str, num_columns: int) -> Scheme:
        return gpu_scheme(name, self.profile.precision, num_columns)

    def prepare(self, spec: ModelSpec, directory: Path, progress: Progress) -> None:
        self._cache(directory).activate()
        self._dense_layers.prepare(spec, directory, progress)
        dtype = activation_dtype(self.profile.precision)
        with ThreadPoolExecutor(1) as thread, progress.task("Compile the kernels", None, ""):
            shapes = products(spec, self.profile.precision)
            compiled = thread.submit(compile_candidates, shapes, self.device, dtype)
            warm_up(spec, self.profile, self.device)
            compiled.result()

    def logits(
        self, spec: ModelSpec, weights: Weights, directory: Path, progress: Progress
    ) -> Candidate:
        kernels = self._kernels(spec, directory, progress)
        decoder = self._decoder(spec, weights)
        dense = self._dense_layers.choose(
            directory, weights, lambda: decoder, kernels, self._compiled(directory), progress
        )
        return Evaluation(dense(decoder), kernels, _NUM_DECODED)

    def open(
        self,
        directory: EngineDirectory,
        progress: Progress,
        *,
        prefix_caching: bool = True,
        speculation: Speculation | None = None,
    ) -> Engine:
        """Raises ChecksumError for damaged weights, SettingError where the memory that they leave
        does not hold one request of full length."""
        config = directory.config
        with progress.task("Create the GPU's context", None, ""):
            torch.zeros(1, device=self.device)
        with progress.task("Read the weights", None, ""):
            weights = directory.weights_on(self.device)
        kernels = self._kernels(config.spec, directory.path, progress)
        return gpu_engine(
            config.spec,
            weights,
            self.profile,
            self.device,
            progress,
            kernels=kernels,
            dense=self._dense_layers.choose(
                directory.path,
                weights,
                lambda: self._decoder(config.spec, weights),
                kernels,
                self._compiled(directory.path),
                progress,
            ),
            memory_bytes=self.memory_bytes,
            eos_token_ids=config.eos_token_ids,
            tokenizer=Tokenizer.from_file(str(directory.path / "tokenizer.json")),
            prefix_caching=prefix_caching,
            speculation=speculation,
        )

    @property
    def _dense_layers(self) -> DenseLayers:
        return DenseLayers.on(self.device, self.profile, self.backend)

    def _compiled(self, directory: Path) -> Path:
        return self._cache(directory).path / "tensorrt.cache"

    def _decoder(self, spec: ModelSpec, weights: Weights) -> Decoder:
        layout = kv_layout(spec, dataclasses.replace(self.profile, kv_cache_bytes=0))
        return Decoder.load(spec, weights, layout)

    def _kernels(self, spec: ModelSpec, directory: Path, progress: Progress) -> TritonKernels:
        cache = self._cache(directory)
        cache.activate()
        dtype = activation_dtype(self.profile.precision)
        with progress.task("Choose the kernels", None, ""):
            choices = cache.choices(products(spec, self.profile.precision), dtype)
        return TritonKernels(self.device, dtype, self.profile.max_batch_size, choices)

    def _cache(self, directory: Path) -> KernelCache:
        return KernelCache(directory / "kernels", self.device)


class _UnrecordedKernels(TritonKernels):
    """Every step runs kernel by kernel."""

    def capture(self, forward: Forward, batch: Batch, *, decodes: bool = True) -> Step:
        return lambda counts: forward(used_part(batch, counts))


def warm_up(spec: ModelSpec, profile: Profile, device: torch.device) -> None:
    """Compile what an engine of this shape runs: a layer of each kind with random weights
    answers a few requests. Left out where memory is short, for it only saves time."""
    if torch.cuda.mem_get_info(device)[0] < 3 * 2 * spec.num_parameters:
        return
    spec = spec.shortest()
    layout = kv_layout(spec, dataclasses.replace(profile, kv_cache_bytes=1))
    block_bytes = 2 * layout.num_kv_heads * layout.block_size * layout.head_dim
    pool = (profile.max_batch_size + 64) * block_bytes * layout.dtype.itemsize
    dtype = activation_dtype(profile.precision)
    engine = Engine(
        spec=spec,
        weights=random_weights(spec, profile.precision, device),
        profile=dataclasses.replace(profile, kv_cache_bytes=pool),
        kernels=_UnrecordedKernels(device, dtype, profile.max_batch_size, {}),
        eos_token_ids=(),
        sampler=DeviceSampler(profile.max_batch_size, device),
    )
    prompts = [[1] * min(300, profile.max_model_len // 2), *[[2]] * (profile.max_batch_size - 1)]
    if not spec.causal:
        engine.embed(prompts, Pooling.MEAN)
        return
    for count, temperature in ((2, 1.0), (len(prompts), 0.0)):
        params = SamplingParams(temperature=temperature, max_tokens=3, ignore_eos=True)
        engine.generate(prompts[:count], params)


def activation_dtype(precision: Precision) -> torch.dtype:
    """What everything but products of 8 bits is computed in."""
    return torch.float16 if precision is Precision.FP16 else torch.bfloat16


def gpu_scheme(name: str, precision: Precision, num_columns: int) -> Scheme:
    """How the engine tensor `name` is held. The embedding and the head stay in 16 bits, and so does
    a matrix whose columns the precision's format does not divide."""
    if precision is Precision.FP16:
        return FP16_ROWS
    scheme = _SCHEMES.get(precision, BF16_ROWS)
    is_layer = name not in ("embedding", "head") and not chooses_experts(name)
    return scheme if is_layer and num_columns % scheme.columns_multiple_of == 0 else BF16_ROWS


def chooses_experts(name: str) -> bool:
    """Whether an engine tensor does, and is so small that it stays in 16 bits."""
    return name.rpartition(".")[2] in ("router", "shared_gate")


_SCHEMES: Mapping[Precision, Scheme] = {
    Precision.FP8: FP8_ROWS,
    Precision.INT8_SQ: INT8_ROWS,
    Precision.INT8_WO: W8A16,
    Precision.INT4_AWQ: W4A16,
    Precision.INT4_GPTQ: W4A16,
}


def products(
    spec: ModelSpec, precision: Precision, shard: Shard = WHOLE
) -> list[tuple[Scheme, int, int]]:
    """Scheme, N and C of every matrix that the rank multiplies with."""
    sources = shard_sources(weight_sources(spec), spec, shard)
    shapes = {name: shard_shape(source, shard) for name, source in sources.items()}
    return [
        (gpu_scheme(name, precision, shapes[name][1]), shapes[name][0], shapes[name][1])
        for name, source in sources.items()
        if source.quantize
        and (name != "embedding" or spec.tie_embeddings)
        and ".experts_" not in name  # whose kernel has no choices
    ]


def random_weights(
    spec: ModelSpec, precision: Precision, device: torch.device, shard: Shard = WHOLE
) -> Weights:
    """Normally distributed weights in the shape of the rank's share, made on the device."""
    generator = torch.Generator(device).manual_seed(0)
    weights: dict[str, PackedWeight | torch.Tensor] = {}
    for name, source in shard_sources(weight_sources(spec), spec, shard).items():
        shape = shard_shape(source, shard)
        if not source.quantize:
            weights[name] = torch.ones(shape, device=device)
            continue
        tensor_NC = torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)
        scheme = gpu_scheme(name, precision, shape[1])
        weights[name] = scheme.pack(tensor_NC.mul_(0.02))
    return weights


def gpu_engine(
    spec: ModelSpec,
    weights: Weights,
    profile: Profile,
    device: torch.device,
    progress: Progress = SILENT,
    *,
    kernels: TritonKernels | None = None,
    dense: Dense | None = None,
    memory_bytes: int | None = None,
    eos_token_ids: Sequence[int] = (),
    tokenizer: Tokenizer | None = None,
    prefix_caching: bool = True,
    speculation: Speculation | None = None,
) -> Engine:
    """`kernels` None: chosen now, and not kept. `dense`: as `Engine` takes it.
    `memory_bytes`: what the engine may take in all.

    Raises SettingError where the memory that is left does not hold one request of full length.
    """
    kernels = kernels or measured_kernels(spec, profile, device)
    with progress.task("Run the largest step", None, ""):
        left = measure_kv_bytes(spec, weights, profile, kernels, device, memory_bytes, dense)
    num_bytes = min(left, profile.kv_cache_bytes or left)
    _require_one_request(spec, profile, num_bytes)
    with progress.task("Record the decode steps", None, ""):
        return Engine(
            spec=spec,
            weights=weights,
            profile=dataclasses.replace(profile, kv_cache_bytes=num_bytes),
            kernels=kernels,
            eos_token_ids=eos_token_ids,
            tokenizer=tokenizer,
            prefix_caching=prefix_caching,
            speculator=Speculator(speculation) if speculation else None,
            sampler=DeviceSampler(profile.max_batch_size, device),
            dense=dense,
        )


def measured_kernels(spec: ModelSpec, profile: Profile, device: torch.device) -> TritonKernels:
    """The kernels, chosen now, and not kept."""
    dtype = activation_dtype(profile.precision)
    choices = choose(products(spec, profile.precision), device, dtype)
    return TritonKernels(device, dtype, profile.max_batch_size, choices)


@torch.inference_mode()
def measure_kv_bytes(
    spec: ModelSpec,
    weights: Weights,
    profile: Profile,
    kernels: TritonKernels,
    device: torch.device,
    memory_bytes: int | None = None,
    dense: Dense | None = None,
    shard: Shard = WHOLE,
) -> int:
    """What the largest step leaves for the pool: it is run once, over a pool of a few blocks. Of
    several ranks all must do so at once."""
    small = dataclasses.replace(profile, kv_cache_bytes=0)
    layout = dataclasses.replace(kv_layout(spec, small, shard), num_blocks=profile.max_batch_size)
    decoder = Decoder.load(spec, weights, layout, shard)
    model = dense(decoder) if dense else decoder
    kv = kernels.allocate_kv(model.num_layers, layout)
    batch = largest_step(profile, layout, device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    if spec.encoder is not None:
        model.encode(batch, kv, kernels)
        batch = dataclasses.replace(
            batch, cross_lens_S=batch.context_lens_S, cross_tables_SB=batch.block_tables_SB
        )
    model(batch, kv, kernels)
    step_bytes = torch.cuda.max_memory_allocated() - before
    del kv, batch
    torch.cuda.empty_cache()
    sampling_bytes = 2 * 4 * profile.max_batch_size * spec.vocab_size
    beside = step_bytes + sampling_bytes + _RESERVED_BYTES + _widened_bytes(spec, profile)
    free, _ = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device)
    allowed = round(_MEMORY_SHARE * (free + held))
    if memory_bytes is not None:
        allowed = memory_bytes - _CONTEXT_BYTES
    left = min(allowed - held, free) - beside
    _log.info(
        "Weights and workspaces take %s of the GPU, the largest step %s, sampling %s; %s are left"
        " for the KV cache.",
        *(gibibytes(size) for size in (held, step_bytes, sampling_bytes, left)),
    )
    return left


def _widened_bytes(spec: ModelSpec, profile: Profile) -> int:
    """What recorded steps keep for the largest weight in 16 bits, where they may widen one."""
    if profile.max_batch_size <= ROW_BUCKETS[-1]:
        return 0
    sizes = [n * c for scheme, n, c in products(spec, profile.precision) if scheme.name in BITS]
    return 2 * max(sizes, default=0)


def _require_one_request(spec: ModelSpec, profile: Profile, num_bytes: int) -> None:
    layout = kv_layout(spec, dataclasses.replace(profile, kv_cache_bytes=max(num_bytes, 0)))
    num_texts = 1 if spec.encoder is None else 2  # the prompt's blocks, too
    if layout.num_blocks * layout.block_size < num_texts * profile.max_model_len:
        raise SettingError(
            f"The weights and the largest step leave {gibibytes(max(num_bytes, 0))} of the GPU for"
            f" the KV cache: {layout.num_blocks * layout.block_size} tokens, and one request may"
            f" have {profile.max_model_len}. Lower NIM_MAX_MODEL_LEN, NIM_MAX_NUM_TOKENS or"
            " NIM_MAX_BATCH_SIZE, or raise NIM_KVCACHE_PERCENT."
        )


def largest_step(profile: Profile, layout: KVLayout, device: torch.device) -> Batch:
    """As many tokens as a step takes, over as many sequences, each in one block of its own."""
    num_sequences = profile.max_batch_size
    length = min(profile.max_num_tokens // num_sequences, layout.block_size)

    def indices(count: int) -> torch.Tensor:
        return torch.arange(count, dtype=torch.int32, device=device)

    sequences_S1, positions_T = indices(num_sequences), indices(length).repeat(num_sequences)
    blocks_T = sequences_S1.repeat_interleave(length)
    return Batch(
        token_ids_T=torch.zeros_like(positions_T),
        positions_T=positions_T,
        slots_T=blocks_T * layout.block_size + positions_T,
        query_starts_S1=indices(num_sequences + 1) * length,
        context_lens_S=torch.full_like(sequences_S1, length),
        # as wide as an engine's, for which kernels are compiled
        block_tables_SB=sequences_S1.unsqueeze(1).repeat(1, 16),
        logit_rows_R=(sequences_S1 + 1) * length - 1,
    )
