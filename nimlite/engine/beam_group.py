"""A beam search inside in-flight batching: its beams are sequences that share their blocks.

All beams take the same step: when the next tokens of all of them are known, those that go on are
chosen. A beam that goes on twice becomes two sequences with the same full blocks; only the block
that both will write to is copied (copy-on-write). One that does not go on gives its sequence to
such a twin. A search that loses its blocks begins anew: nothing in it is left to chance.
"""

import dataclasses
from collections.abc import Iterator

from nimlite.engine.beam_search import Beams, Continuation, num_candidates
from nimlite.engine.block_pool import BlockPool
from nimlite.engine.limits import RequestLimits
from nimlite.engine.plan import BlockCopy, SampledToken
from nimlite.engine.request import Delta, FinishReason, Logprob, Request
from nimlite.engine.scheduler_config import SchedulerConfig
from nimlite.engine.sequence import Sequence, SequenceStatus
from nimlite.errors import ContextLengthError, RequestError


class BeamGroup:
    """One search. The first of its requests leads: its prompt is computed once."""

    def __init__(self, request: Request, eos_token_ids: frozenset[int]) -> None:
        search, params = request.beam_search, request.params
        assert search is not None
        self.name = request.group or request.id
        self.width = search.width
        self.request_ids = [request.id]
        """Who gets the texts, best first."""
        self.leader: Sequence
        """That has computed the prompt."""
        self.has_ended = False
        self.copies: list[BlockCopy] = []
        self.sequences: list[Sequence] = []
        """The running beams, best first. Before the first choice, there is one."""
        stops = (frozenset[int]() if params.ignore_eos else eos_token_ids).union(
            params.stop_token_ids
        )
        self._request = request
        self._beams = Beams(request, stops)
        self._stops = stops
        self._candidates: dict[Sequence, list[Logprob]] = {}
        self._chosen: list[Continuation] = []
        self._params = dataclasses.replace(
            params, temperature=0.0, logprobs=num_candidates(self.width, len(stops)), min_tokens=0
        )

    def request_of(self, place: int) -> Request:
        """What the runner sees of a beam: a greedy sequence, with the candidates of a choice."""
        return dataclasses.replace(
            self._request,
            id=self._request.id if not place else f"{self._request.id}/{place}",
            params=self._params,
            group=None,
            num_speculative_tokens=0,
        )

    @property
    def num_missing(self) -> int:
        """Sequences that are still to come."""
        return self.width - len(self.sequences)

    @property
    def is_deserted(self) -> bool:
        """Whether nobody wants a text any more."""
        return not any(self.request_ids)

    @property
    def is_chosen(self) -> bool:
        """Whether the beams that go on are known, and their tokens not yet taken in."""
        return bool(self._chosen)

    def begin(self, leader: Sequence) -> None:
        """The search starts with its prompt: for the first time, or anew."""
        leader.beams = self
        if self.sequences:
            leader.rank = self.leader.rank
            leader.status = SequenceStatus.PREEMPTED
            leader.prompt_logprobs = self.leader.prompt_logprobs
            leader.num_cached_tokens = self.leader.num_cached_tokens
        self.leader = leader
        self.sequences = [leader]
        self.copies = []
        self._beams = Beams(self._request, self._stops)
        self._candidates, self._chosen = {}, []

    def adopt(self, twin: Sequence, place: int) -> None:
        """One of the missing sequences, for `go_on`. It stands next to the others in rank."""
        twin.beams = self
        twin.status = SequenceStatus.RUNNING
        first, second = self.leader.rank
        twin.rank = first, second + place / self.width

    def collect(self, sequence: Sequence, sampled: SampledToken) -> None:
        """A beam's next tokens have come: those of the last one make the choice."""
        assert sampled.logprob is not None
        top, count = sampled.logprob.top, self._request.params.logprobs or 0
        self._candidates[sequence] = [
            Logprob(token_id, logprob, rank, top[:count])
            for rank, (token_id, logprob) in enumerate(top, start=1)
        ]
        if len(self._candidates) < len(self.sequences):
            return
        self._chosen = self._beams.extend([self._candidates[s] for s in self.sequences])
        self._candidates = {}
        assert len(self._chosen) in (0, self.width), "a vocabulary smaller than a choice"
        self.has_ended = not self._chosen

    def deltas(self) -> list[Delta]:
        """The texts, for those who still want theirs."""
        first = self.leader
        wants_logprobs = self._request.params.logprobs is not None
        return [
            Delta(
                request_id,
                token_ids=found.token_ids,
                logprobs=found.logprobs if wants_logprobs else (),
                prompt_logprobs=first.all_prompt_logprobs(),
                finish_reason=found.finish_reason,
                stop_token_id=(
                    found.token_ids[-1] if found.finish_reason is FinishReason.STOP else None
                ),
                num_cached_tokens=first.num_cached_tokens,
            )
            for request_id, found in zip(self.request_ids, self._beams.finished, strict=False)
            if request_id
        ]

    def num_blocks_to_go_on(self, block_size: int) -> int:
        """Blocks that the chosen beams take beside those that they have."""
        if self.sequences[0].num_computed_tokens % block_size == 0:
            return self.width
        return self.width - len({chosen.beam for chosen in self._chosen})

    def go_on(self, twins: list[Sequence], pool: BlockPool) -> None:
        """Take the chosen tokens in. `twins`: the missing sequences. The blocks are there."""
        parents, chosen = self.sequences, self._chosen
        assert chosen, "no beam has been chosen"
        going_on = {continuation.beam for continuation in chosen}
        spare = twins + [s for place, s in enumerate(parents) if place not in going_on]
        self.sequences, self._chosen = [], []
        for continuation in chosen:
            sequence = parents[continuation.beam]
            if sequence in self.sequences:
                sequence = self._twin_of(sequence, spare.pop(), pool)
            self.sequences.append(sequence)
        for sequence, continuation in zip(self.sequences, chosen, strict=True):
            sequence.token_ids.append(continuation.logprob.token_id)
            sequence.num_pending = 0
            if sequence.num_computed_tokens == len(sequence.block_table) * pool.block_size:
                sequence.block_table += pool.allocate(1)

    def _twin_of(self, parent: Sequence, twin: Sequence, pool: BlockPool) -> Sequence:
        """Make it what its parent is, whose token is still to come."""
        num_full = parent.num_computed_tokens // pool.block_size
        shared = parent.block_table[:num_full]
        pool.acquire(shared[parent.num_slid :])
        pool.release(twin.held_blocks)
        twin.num_slid = parent.num_slid
        twin.block_table = shared
        if parent.num_computed_tokens % pool.block_size:
            twin.block_table = shared + pool.allocate(1)
            self.copies.append(BlockCopy(parent.block_table[num_full], twin.block_table[num_full]))
        twin.block_hashes = parent.block_hashes[:num_full]
        twin.token_ids = parent.token_ids[: parent.num_computed_tokens]
        twin.num_computed_tokens = parent.num_computed_tokens
        return twin


class BeamSearches:
    """All that are under way, by the requests that want their texts."""

    def __init__(self) -> None:
        self._groups: dict[str, BeamGroup] = {}

    def __iter__(self) -> Iterator[BeamGroup]:
        """Each once."""
        return iter(list({id(group): group for group in self._groups.values()}.values()))

    @property
    def num_missing(self) -> int:
        """Sequences that those which run are still to get."""
        return sum(
            group.num_missing for group in self if group.leader.status is SequenceStatus.RUNNING
        )

    def chosen(self) -> Iterator[BeamGroup]:
        """Those whose next beams are to become sequences. One may lose its blocks to another that
        comes before it."""
        return (group for group in self if group.is_chosen)

    def join(self, request: Request) -> bool:
        """False where it is the first of its group."""
        group = next((g for g in self if g.name == request.group), None)
        if group is not None:
            group.request_ids.append(request.id)
            self._groups[request.id] = group
        return group is not None

    def open(self, request: Request, eos_token_ids: frozenset[int]) -> BeamGroup:
        group = self._groups[request.id] = BeamGroup(request, eos_token_ids)
        return group

    def leave(self, request_id: str) -> BeamGroup | None:
        """Nobody wants the request's text any more; its search, if it has one."""
        group = self._groups.pop(request_id, None)
        if group is not None:
            group.request_ids[group.request_ids.index(request_id)] = ""
        return group

    def results(self, group: BeamGroup) -> list[Delta]:
        """The texts of a search that has ended; it is forgotten."""
        for request_id in filter(None, group.request_ids):
            del self._groups[request_id]
        return group.deltas()

    def take_copies(self) -> list[BlockCopy]:
        """What must be copied before the next step computes."""
        copies = []
        for group in self:
            copies += group.copies
            group.copies = []
        return copies


def check_search(request: Request, limits: RequestLimits, config: SchedulerConfig) -> None:
    """Raises RequestError for more beams than sequences may run, and behind an encoder.
    ContextLengthError where their blocks could not all be held at once: they share those of the
    prompt, and each may take one more for a copy."""
    search, size = request.beam_search, limits.block_size
    assert search is not None
    if config.decoder_prompt:
        raise RequestError(
            "'use_beam_search' is not there yet for models with an encoder: leave it out.",
            param="use_beam_search",
        )
    if search.width > config.max_num_seqs:
        raise RequestError(
            f"{search.width} beams were asked for, and this server runs {config.max_num_seqs}"
            " sequences at once (NIM_MAX_BATCH_SIZE). Ask for fewer.",
            param="n",
        )
    num_prompt = len(request.prompt_token_ids)
    own = -(-(num_prompt + request.params.max_tokens) // size) - num_prompt // size + 1
    needed = num_prompt // size + search.width * own
    if needed > limits.num_blocks:
        raise ContextLengthError(
            f"{search.width} beams of {request.params.max_tokens} tokens behind a prompt of"
            f" {num_prompt} may need {needed} blocks of the KV cache, and this server has"
            f" {limits.num_blocks}. Lower max_tokens or the number of beams.",
            param="max_tokens",
        )


def check_vocabulary(request: Request, eos_token_ids: frozenset[int], vocab_size: int) -> None:
    """Raises RequestError where a choice might not find enough tokens that end no text."""
    search = request.beam_search
    assert search is not None
    num_stops = len(eos_token_ids.union(request.params.stop_token_ids))
    needed = num_candidates(search.width, num_stops)
    if needed > vocab_size:
        raise RequestError(
            f"{search.width} beams with {num_stops} tokens that end a text need a vocabulary of"
            f" {needed} tokens, and this model has {vocab_size}: ask for fewer of either.",
            param="n",
        )
