"""How fast a profile will be: a roofline over its steps, calibrated by measurements.

A step reads the weights that its tokens touch, computes with them, reads the keys and values of
their contexts, and pays something for every layer. Products near the ridge reach neither roof: the
corner is round (S. Williams et al., "Roofline", 2009, gives the roofs; the corner is ours).
"""

import math
from dataclasses import dataclass

from nimlite.profiles.calibration import (
    EFFICIENCY,
    EXCHANGE_SECONDS,
    EXCHANGE_SHARE,
    Efficiency,
)
from nimlite.profiles.manifest import Device, Profile
from nimlite.profiles.memory import kv_bytes, read_bytes
from nimlite.profiles.rates import Rates
from nimlite.profiles.shape import ModelShape

_ROUND = 1.5
"""1 would add the two times, infinity take the larger; an H200's products of 64 and 256 rows lie
here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of the engine: streams at a time, and the tokens of each."""

    concurrency: int
    input_length: int
    output_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a profile will do under a load that never ceases."""

    load: Load
    ttft: float
    """Seconds to the first token."""
    itl: float
    """Seconds between the tokens of a stream."""
    source: str
    """What it rests on."""

    @property
    def stream_tok_s(self) -> float:
        return 1 / self.itl

    @property
    def request_seconds(self) -> float:
        return self.ttft + (self.load.output_length - 1) * self.itl

    @property
    def total_tok_s(self) -> float:
        """Output tokens of all streams."""
        return self.load.concurrency * self.load.output_length / self.request_seconds


def predict(shape: ModelShape, profile: Profile, rates: Rates, load: Load) -> Prediction:
    """Streams decode together; each that ends is followed by another, whose prompt takes its time
    from the rest."""
    efficiency = EFFICIENCY[profile.device, profile.precision]
    step = _Step(shape, profile, rates, efficiency)
    prompt = step.prompt_seconds(load.input_length)
    # Prompts of the other streams that fall to one step, computed along with everybody's tokens.
    others = (load.concurrency - 1) / load.output_length
    middle = load.input_length + load.output_length // 2
    itl = step.decode_seconds(load.concurrency, middle, others, load.input_length)
    return Prediction(
        load=load,
        ttft=prompt + (itl if load.concurrency > 1 else 0.0),
        itl=itl,
        source=f"{efficiency.source}; rates: {rates.source}",
    )


def _corner(reading: float, computing: float) -> float:
    """The larger of two times, and up to 1.6 times as much where they are equal."""
    return math.pow(math.pow(reading, _ROUND) + math.pow(computing, _ROUND), 1 / _ROUND)


@dataclass(frozen=True, slots=True)
class _Step:
    """Times of steps, in seconds."""

    shape: ModelShape
    profile: Profile
    rates: Rates
    efficiency: Efficiency

    def decode_seconds(
        self, num_sequences: int, context: int, num_prompts: float, prompt_length: int
    ) -> float:
        """One token for each sequence, and the tokens of some prompts."""
        a_rank = num_sequences * kv_bytes(self.shape, self.profile, context)
        reading = a_rank * self.profile.pp / (self.rates.bandwidth * self.efficiency.kv)
        num_tokens = num_sequences + num_prompts * prompt_length
        products = self._products(num_tokens, num_sequences + num_prompts)
        prompts = num_prompts * self._attention(prompt_length)
        host = num_sequences * self.efficiency.sequence_seconds
        return products + reading + prompts + host + self._overhead(num_tokens)

    def prompt_seconds(self, num_tokens: int) -> float:
        """A prompt in steps of the profile's token budget."""
        chunk = min(num_tokens, self.profile.max_num_tokens)
        num_steps = math.ceil(num_tokens / chunk)
        return num_steps * (self._products(chunk, 1) + self._overhead(chunk)) + self._attention(
            num_tokens
        )

    def _products(self, num_tokens: float, num_logit_rows: float) -> float:
        """Reading the weights that are touched, and multiplying with them."""
        size = self.profile.num_gpus or 1
        reading = read_bytes(self.shape, self.profile, num_tokens) / (
            self.rates.bandwidth * self.efficiency.weights
        )
        head = self.shape.head_parameters
        active = self.shape.num_active_parameters - head
        flops = 2 * (num_tokens * active + num_logit_rows * head) / size
        computing = flops / (self.rates.flops * self.efficiency.compute)
        return self.profile.pp * _corner(reading, computing)

    def _attention(self, num_tokens: int) -> float:
        """A prompt's scores and sums, of which half is causal."""
        shape = self.shape
        window = min(num_tokens, shape.sliding_window or num_tokens)
        full = shape.num_layers - shape.num_windowed_layers
        pairs = (full * num_tokens / 2 + shape.num_windowed_layers * window / 2) * num_tokens
        flops = 4 * pairs * shape.num_heads * shape.head_dim / (self.profile.num_gpus or 1)
        return flops / (self.rates.flops * self.efficiency.compute) * self.profile.pp

    def _overhead(self, num_tokens: float) -> float:
        """Launches, norms and tails of every layer, and its two exchanges between the ranks."""
        layers = self.shape.num_layers * self.efficiency.layer_seconds
        if self.profile.device is Device.CPU or self.profile.num_gpus == 1:
            return layers
        exchanged = 2 * num_tokens * self.shape.hidden_size
        latency = EXCHANGE_SECONDS[self.rates.has_nvlink]
        once = latency + exchanged / (self.rates.link * EXCHANGE_SHARE)
        num_exchanges = 2 * self.shape.num_layers if self.profile.tp > 1 else 0
        return layers + (num_exchanges + self.profile.pp - 1) * once
