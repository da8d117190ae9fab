"""Who waits to run: a queue by rank for each client, and behind them the groups that wait for a
leader."""

import heapq

from nimlite.engine.accounts import Account
from nimlite.engine.sequence import Rank, Sequence, SequenceStatus


class WaitingQueue:
    """Waiting and preempted sequences: of the clients' first ones that whose turn it is.

    The first sequence of a group leads: it computes their prompt alone while the others stay out of
    the queue; then they all join it, with the leader as the source to share the blocks with.
    """

    def __init__(self) -> None:
        self._heaps: dict[Account, list[tuple[Rank, Sequence]]] = {}
        """Whoever ends while waiting is skipped later."""
        self._leaders: dict[str, Sequence] = {}  # of groups whose prompt is not computed yet

    def add(self, sequence: Sequence) -> None:
        """A new sequence comes."""
        group = sequence.request.group
        leader = sequence if group is None else self._leaders.setdefault(group, sequence)
        # Log-probabilities of a prompt need its every position computed: there is nothing to share.
        if leader is sequence or sequence.needs_prompt_logits:
            self.push(sequence)
        else:
            assert leader.request.prompt_token_ids == sequence.request.prompt_token_ids
            leader.followers.append(sequence)

    def push(self, sequence: Sequence) -> None:
        """A sequence waits for admission (again)."""
        heapq.heappush(self._heaps.setdefault(sequence.account, []), (sequence.rank, sequence))

    def head(self) -> Sequence | None:
        """The sequence to admit next."""
        first: Sequence | None = None
        for account, heap in list(self._heaps.items()):
            while heap and heap[0][1].status is SequenceStatus.FINISHED:
                heapq.heappop(heap)
            if not heap:
                del self._heaps[account]
            elif first is None or heap[0][1].turn < first.turn:
                first = heap[0][1]
        return first

    def pop(self, head: Sequence) -> None:
        """The head has been admitted."""
        heapq.heappop(self._heaps[head.account])

    def prompt_computed(self, leader: Sequence) -> None:
        """The prompt lies in the sequence's blocks: those who waited for it join the queue."""
        for follower in self._disband(leader):
            follower.source = leader
            self.push(follower)

    def leave(self, leader: Sequence) -> None:
        """The sequence has ended: of those who still wait for it the first leads now."""
        followers = [s for s in self._disband(leader) if s.status is not SequenceStatus.FINISHED]
        for follower in followers:
            self.add(follower)

    def _disband(self, leader: Sequence) -> list[Sequence]:
        group = leader.request.group
        if group is not None and self._leaders.get(group) is leader:
            del self._leaders[group]
        followers, leader.followers = leader.followers, []
        return followers
