from nimlite.engine.request import Request, SamplingParams
from nimlite.engine.sequence import Sequence, SequenceStatus
from nimlite.engine.waiting_queue import WaitingQueue


def sequence(arrival, *, group=None, **params):
    request = Request(
        id=str(arrival), prompt_token_ids=(1, 2), params=SamplingParams(**params), group=group
    )
    return Sequence(request, arrival=arrival, eos_token_ids=frozenset())


def queue_of(*sequences):
    queue = WaitingQueue()
    for item in sequences:
        queue.add(item)
    return queue


def drain(queue):
    """Arrivals in the order of admission."""
    arrivals = []
    while head := queue.head():
        queue.pop(head)
        arrivals.append(head.rank[1])
    return arrivals


def test_a_preempted_sequence_goes_before_later_arrivals():
    queue = queue_of(sequence(1), sequence(2))
    queue.push(sequence(0))
    assert drain(queue) == [0, 1, 2]


def test_whoever_ended_while_waiting_is_skipped():
    ended = sequence(0)
    queue = queue_of(ended, sequence(1))
    ended.status = SequenceStatus.FINISHED
    assert drain(queue) == [1]


def test_followers_join_when_the_prompt_is_computed():
    leader, follower = sequence(0, group="g"), sequence(1, group="g")
    queue = queue_of(leader, follower, sequence(2))
    assert drain(queue) == [0, 2]
    queue.prompt_computed(leader)
    assert drain(queue) == [1]
    assert follower.source is leader


def test_a_latecomer_leads_anew():
    leader, latecomer = sequence(0, group="g"), sequence(1, group="g")
    queue = queue_of(leader)
    queue.prompt_computed(leader)
    queue.add(latecomer)
    assert drain(queue) == [0, 1]
    assert latecomer.source is None


def test_the_first_live_follower_inherits_the_others():
    leader, ended, heir, last = group = [sequence(n, group="g") for n in range(4)]
    queue = queue_of(*group)
    ended.status = leader.status = SequenceStatus.FINISHED
    queue.leave(ended)
    queue.leave(leader)
    assert drain(queue) == [2]
    queue.prompt_computed(heir)
    assert drain(queue) == [3]
    assert last.source is heir


def test_who_needs_the_logits_of_the_prompt_follows_nobody():
    queue = queue_of(sequence(0, group="g"), sequence(1, group="g", prompt_logprobs=1))
    assert drain(queue) == [0, 1]
