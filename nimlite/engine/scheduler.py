"""Which tokens of which sequences run in the next step: in-flight batching by one token budget.

There is no prefill and no decode phase, as in vLLM's V1 scheduler: a step narrows the gap between
`num_computed_tokens` and `num_tokens`, of decodes first, then by chunks of prompts.

`schedule` may be called before the `update` of the last plan: it counts tokens that are still being
sampled, and what comes for an ended sequence is dropped. Steps run in the order of their plans.
"""

from bisect import insort
from operator import attrgetter

from nimlite.engine.accounts import Accounts
from nimlite.engine.beam_group import BeamGroup, BeamSearches, check_search
from nimlite.engine.block_pool import BlockPool
from nimlite.engine.drafting import Drafting
from nimlite.engine.encoder_input import Reading
from nimlite.engine.limits import RequestLimits
from nimlite.engine.placement import Placement
from nimlite.engine.plan import SampledToken, ScheduledChunk, StepOutput, StepPlan
from nimlite.engine.prefix_cache import PrefixCache
from nimlite.engine.request import Delta, EngineStats, FinishReason, Request
from nimlite.engine.scheduler_config import SchedulerConfig
from nimlite.engine.sequence import Sequence, SequenceStatus
from nimlite.engine.speculation import Speculator
from nimlite.engine.step import Step
from nimlite.engine.waiting_queue import WaitingQueue


class Scheduler:
    """Owns every sequence from `add` to its last `Delta`, and all block tables.

    A running sequence holds the blocks of all its known tokens and takes another when they are
    full; where every layer has a window, it gives back those that none sees any more. When none is
    free, the running sequence of the highest rank is preempted: its blocks go back (the prefix
    cache still knows the full ones) and it waits to be computed again. So the lowest rank always
    makes progress.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        pool: BlockPool,
        cache: PrefixCache,
        speculator: Speculator | None = None,
    ) -> None:
        self.config = config
        self._pool = pool
        self._drafting = Drafting(
            pool, speculator, min(config.max_num_seqs, config.max_num_tokens // 2)
        )
        self._cache = cache
        self._placement = Placement(pool, cache, config.window)
        self._sequences: dict[str, Sequence] = {}
        self._running: list[Sequence] = []  # by rank
        self._waiting = WaitingQueue()
        self._accounts = Accounts()
        self._searches = BeamSearches()
        self._num_arrivals = 0
        self._num_steps = 0
        self._num_preemptions = 0
        self._num_generated_tokens = 0

    @property
    def has_work(self) -> bool:
        """False when every request has ended."""
        return bool(self._sequences)

    @property
    def limits(self) -> RequestLimits:
        """What one request may ask for."""
        return RequestLimits(
            max_model_len=self.config.max_model_len,
            num_blocks=self._pool.num_blocks,
            block_size=self._pool.block_size,
            max_num_tokens=self.config.max_num_tokens,
            num_decoder_prompt=len(self.config.decoder_prompt),
        )

    def add(self, request: Request) -> None:
        """Queue a request. Raises ContextLengthError where it could never run."""
        assert request.id not in self._sequences, f"request {request.id!r} is already here"
        assert request.prompt_token_ids, "a prompt has at least one token"
        self.limits.check(request)
        if request.beam_search is not None:
            if self._searches.join(request):
                return
            check_search(request, self.limits, self.config)
            group = self._searches.open(request, self.config.eos_token_ids)
            sequence = self._new_sequence(group.request_of(0))
            group.begin(sequence)
        else:
            sequence = self._new_sequence(request)
        self._num_arrivals += 1
        self._waiting.add(sequence)

    def _new_sequence(self, request: Request) -> Sequence:
        sequence = self._sequences[request.id] = Sequence(
            request,
            arrival=self._num_arrivals,
            eos_token_ids=self.config.eos_token_ids,
            account=self._accounts.join(request.client, request.weight),
            decoder_prompt=self.config.decoder_prompt,
        )
        return sequence

    def abort(self, request_id: str) -> None:
        """Drop a request; its blocks are free at once. An id that has ended already is ignored."""
        if group := self._searches.leave(request_id):
            if group.is_deserted:
                self._finish(*group.sequences)
        elif sequence := self._sequences.get(request_id):
            self._finish(sequence)
        self._drop_finished()

    def awaits_tokens(self) -> bool:
        """Whether guesses can only be made once the step in flight has been taken in, and are worth
        to wait for it."""
        room = self._drafting.room(len(self._running), len(self._sequences))
        return room > 0 and self._drafting.promises(self._running)

    def schedule(self) -> StepPlan | None:
        """Plan the next step, or None where there is nothing to compute now."""
        self._make_room()
        budget = self.config.max_num_tokens
        step = Step(budget, self.config.max_logit_rows, Reading(budget))
        for group in self._searches.chosen():
            self._go_on(group)
        for sequence in self._schedule_decodes(step):
            if sequence.status is SequenceStatus.RUNNING:
                self._schedule_prefill(sequence, step)
        self._admit(step)
        if not step.chunks:
            return None
        self._num_steps += 1
        step.copies += self._searches.take_copies()
        return step.plan(self._num_steps, budget - step.budget)

    def update(self, plan: StepPlan, output: StepOutput) -> list[Delta]:
        """Take in what a step computed; plans come in the order they were scheduled."""
        deltas: list[Delta] = []
        block_size = self._pool.block_size
        for read in plan.reads:
            self._placement.has_read(read)
        for chunk, sampled, logprobs in zip(
            plan.chunks, output.sampled, output.prompt_logprobs, strict=True
        ):
            sequence = chunk.sequence
            self._drafting.count(len(chunk.drafts), len(sampled))
            if sequence.status is SequenceStatus.FINISHED:
                continue
            if logprobs:  # after a preemption some are known already
                known = len(sequence.prompt_logprobs) - chunk.start
                assert known >= 0, f"prompt log-probabilities before {chunk.start} are missing"
                sequence.prompt_logprobs.extend(logprobs[known:])
            delta = None
            if chunk.samples:
                assert sampled, f"no token was sampled for {sequence}"
                delta = self._append(sequence, sampled)
            elif sequence.pooling is not None:
                delta = sequence.take_pooled(chunk, output.pooled.get(sequence))
            # Not the chunk's table any more: it was preempted, and the blocks may be another's.
            if sequence.block_table is chunk.block_table:
                end = chunk.start + chunk.num_tokens
                if chunk.drafts:
                    assert delta is not None
                    end = chunk.start + max(1, len(delta.token_ids))
                first, last = chunk.start // block_size, end // block_size
                if first < last:
                    self._cache.register(sequence, first, last)
                if chunk.drafts:
                    self._drafting.roll_back(sequence, end)
            if delta is not None:
                deltas.append(delta)
                if delta.finish_reason:
                    self._finish(sequence)
            elif sequence.beams is not None and sequence.beams.has_ended:
                found = self._searches.results(sequence.beams)
                self._num_generated_tokens += sum(len(delta.token_ids) for delta in found)
                deltas += found
                self._finish(*sequence.beams.sequences)
        if any(delta.finish_reason for delta in deltas):
            self._drop_finished()
        return deltas

    def stats(self) -> EngineStats:
        """Counters since the start, and what there is now."""
        return EngineStats(
            num_running=len(self._running),
            num_waiting=len(self._sequences) - len(self._running),
            num_blocks=self._pool.num_blocks,
            num_free_blocks=self._pool.num_free_blocks,
            num_preemptions=self._num_preemptions,
            num_prefix_queries=self._placement.num_prompt_tokens,
            num_prefix_hits=self._placement.num_prefix_hits,
            num_steps=self._num_steps,
            num_prompt_tokens=self._placement.num_prompt_tokens,
            num_generated_tokens=self._num_generated_tokens,
            num_drafted_tokens=self._drafting.num_drafted,
            num_accepted_tokens=self._drafting.num_accepted,
        )

    def check_integrity(self) -> None:
        """Assert that pool, cache and sequences agree, and that nobody writes where others read."""
        tables = (s.held_blocks + s.source_table for s in self._sequences.values())
        self._pool.check_integrity(tables)
        assert [s.rank for s in self._running] == sorted(s.rank for s in self._running)
        for sequence in self._sequences.values():
            running = sequence.status is SequenceStatus.RUNNING
            assert running == (sequence in self._running), f"{sequence} is in the wrong queue"
            assert running or not sequence.block_table + sequence.source_table, f"{sequence}"
            assert 0 <= sequence.num_computed_tokens <= sequence.num_tokens
            self._placement.check(sequence)

    def _make_room(self) -> None:
        """Preempt less urgent sequences where the head of the queue finds no place beside them.
        It must come before anything of the step is planned: the step would write to their blocks.
        """
        head = self._waiting.head()
        while head is not None and self._running:
            last = self._running[-1]
            if last.request.priority <= head.request.priority or last.turn < head.turn:
                return
            if self._has_seats(head) and self._placement.fits(head, len(self._running)):
                return
            self._preempt(self._running.pop())

    def _schedule_decodes(self, step: Step) -> list[Sequence]:
        """One token for every running sequence that has only its last one to compute. Returns those
        that have more. This is the hot loop: once a sequence and step."""
        prefills: list[Sequence] = []
        block_size, stages = self._pool.block_size, self.config.num_stages
        budget, add = step.budget, step.chunks.append
        draft_room = self._drafting.room(len(self._running), len(self._sequences))
        window = self.config.window
        for sequence in self._running:  # preemption may shorten it from the end meanwhile
            position, table = sequence.num_computed_tokens, sequence.block_table
            num_pending = sequence.num_pending
            num_tokens = len(sequence.token_ids) + num_pending
            if num_pending and (num_tokens >= sequence.max_num_tokens or sequence.awaits_update):
                continue  # its last token is being sampled, or nobody knows which
            if num_tokens - position > 1 or sequence.pooling is not None:
                prefills.append(sequence)
                continue
            if not budget:
                break
            if stages > 1 and (num_pending or len(step.chunks) * stages >= len(self._running)):
                continue
            if window and (position - window + 1) // block_size > sequence.num_slid:
                self._placement.slide(sequence)
            if position == len(table) * block_size and not self._grow(sequence):
                continue
            budget -= 1
            output_index = num_tokens - sequence.num_prompt_tokens
            drafts: tuple[int, ...] = ()
            if draft_room and not num_pending:
                drafts = self._drafting.draft(
                    sequence, len(self._running), len(step.chunks) + step.num_drafted, draft_room
                )
                draft_room -= len(drafts)
                budget -= len(drafts)
                step.num_drafted += len(drafts)
            num_rows = 1 + len(drafts)
            add(
                ScheduledChunk(
                    sequence, position, num_rows, num_rows, True, output_index, table, drafts
                )
            )
            sequence.num_computed_tokens = num_tokens
            sequence.num_pending = num_pending + 1
        step.budget = budget
        return prefills

    def _grow(self, sequence: Sequence) -> bool:
        """Append a block to the table, preempting from the highest rank down until one is free.
        False where that came to the sequence itself. Whoever is preempted is not in the step yet,
        for decodes are scheduled from the lowest rank up."""
        while not self._pool.num_free_blocks:
            victim = self._running.pop()
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.block_table += self._pool.allocate(1)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._num_preemptions += 1
        if sequence.beams is not None:
            self._restart(sequence.beams)
            return
        self._placement.release(sequence)
        sequence.num_computed_tokens = 0
        sequence.num_preemptions += 1
        sequence.status = SequenceStatus.PREEMPTED
        self._waiting.push(sequence)

    def _schedule_prefill(self, sequence: Sequence, step: Step) -> None:
        """As many of a running sequence's tokens as the step has room for; it has their blocks."""
        self._placement.slide(sequence)
        start = sequence.num_computed_tokens
        left = sequence.num_tokens - start
        num_tokens = min(left, step.budget)
        every_row = sequence.needs_prompt_logits
        if every_row:
            num_tokens = min(num_tokens, step.logit_budget)
            step.logit_budget -= num_tokens
        if not num_tokens or (self.config.whole_texts and num_tokens < left):
            return
        is_last, step.pools = num_tokens == left, step.pools or sequence.pooling is not None
        samples = is_last and sequence.pooling is None
        num_logit_rows = num_tokens if every_row else int(samples)
        step.budget -= num_tokens
        step.chunks.append(
            ScheduledChunk(
                *(sequence, start, num_tokens, num_logit_rows, samples),
                output_index=sequence.num_tokens - sequence.num_prompt_tokens,
                block_table=sequence.block_table,
            )
        )
        sequence.num_computed_tokens += num_tokens
        sequence.num_pending += is_last

    def _admit(self, step: Step) -> None:
        """Start waiting sequences, each in its turn. One that does not fit holds up those behind
        it: were it passed by, smaller ones could keep it out for ever."""
        while step.budget:
            sequence = self._waiting.head()
            # A token still being sampled for a preempted sequence is not known to recompute with.
            if sequence is None or sequence.num_pending:
                return
            if not self._has_seats(sequence, step.num_drafted):
                return
            copies = self._placement.start(sequence, len(self._running), step.reading)
            if copies is None:
                return
            step.copies += copies
            self._waiting.pop(sequence)
            insort(self._running, sequence, key=attrgetter("rank"))
            self._schedule_prefill(sequence, step)

    def _has_seats(self, sequence: Sequence, num_drafted: int = 0) -> bool:
        """Whether a waiting sequence and all that come with it may run beside the others."""
        taken = len(self._running) + num_drafted + self._searches.num_missing
        return taken + sequence.num_slots <= self.config.max_num_seqs

    def _append(self, sequence: Sequence, sampled: tuple[SampledToken, ...]) -> Delta | None:
        """Take in what was sampled; a beam says nothing before the end of its search."""
        if sequence.beams is not None:
            sequence.beams.collect(sequence, sampled[0])
            sequence.account.charge(1)
            return None
        is_first = len(sequence.token_ids) == sequence.num_prompt_tokens
        delta = sequence.take(sampled)
        self._num_generated_tokens += len(delta.token_ids)
        sequence.account.charge(len(delta.token_ids))
        if is_first and delta.finish_reason is not FinishReason.REFUSED:
            self._waiting.prompt_computed(sequence)
        return delta

    def _go_on(self, group: BeamGroup) -> None:
        """The chosen beams become sequences; the last in rank give their blocks for it."""
        num_blocks = group.num_blocks_to_go_on(self._pool.block_size)
        while self._pool.num_free_blocks < num_blocks:
            victim = self._running.pop()
            self._preempt(victim)
            if victim.beams is group:
                return
        twins = []
        for place in range(len(group.sequences), group.width):
            twins.append(self._new_sequence(group.request_of(place)))
            group.adopt(twins[-1], place)
            insort(self._running, twins[-1], key=attrgetter("rank"))
        group.go_on(twins, self._pool)

    def _restart(self, group: BeamGroup) -> None:
        """Of its beams none is in the step yet: they stand next to each other."""
        while self._running and self._running[-1].beams is group:
            self._running.pop()
        self._finish(*group.sequences)
        leader = self._new_sequence(group.request_of(0))
        group.begin(leader)
        self._waiting.push(leader)

    def _finish(self, *sequences: Sequence) -> None:
        for sequence in sequences:
            self._waiting.leave(sequence)
            self._accounts.leave(sequence.account)
            self._placement.release(sequence)
            sequence.status = SequenceStatus.FINISHED
            del self._sequences[sequence.request.id]

    def _drop_finished(self) -> None:
        self._running = [s for s in self._running if s.status is SequenceStatus.RUNNING]
