"""Messages between two processes: whatever is sent arrives, in whatever pieces."""

import pickle
import socket

from hypothesis import given
from hypothesis import strategies as st

from nimlite.engine.request import Delta, EngineStats, FinishReason, Logprob, Request
from nimlite.engine.request import SamplingParams as Params
from nimlite.engine.wire import Abort, Channel, Decoder, Step, Submit, encode

token_ids = st.integers(0, 2**31)
floats = st.floats(allow_nan=False)
logprobs = st.builds(
    Logprob, token_ids, floats, st.integers(1, 9), st.lists(st.tuples(token_ids, floats)).map(tuple)
)
deltas = st.builds(
    Delta,
    st.text(min_size=1),
    st.lists(token_ids, max_size=3).map(tuple),
    logprobs=st.lists(logprobs, max_size=2).map(tuple),
    prompt_logprobs=st.lists(st.none() | logprobs, max_size=2).map(tuple),
    finish_reason=st.none() | st.sampled_from(FinishReason),
    stop_token_id=st.none() | token_ids,
    num_cached_tokens=st.integers(0, 99),
    error=st.none() | st.text(),
)
plain = st.builds(lambda name, token: Delta(name, (token,)), st.text(min_size=1), token_ids)
steps = st.lists(deltas | plain, max_size=20, unique_by=lambda delta: delta.request_id)
params = st.builds(
    Params,
    temperature=floats,
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    logprobs=st.none(),
)
requests = st.builds(Request, id=st.text(), prompt_token_ids=st.lists(token_ids), params=params)
messages = (
    st.builds(Submit, st.lists(requests, max_size=3).map(tuple))
    | st.builds(Abort, st.lists(st.text()).map(tuple))
    | st.builds(Step.pack, steps, st.builds(EngineStats, num_steps=st.integers(0, 2**60)))
)


@given(steps, st.integers(0, 2**60))
def test_a_step_holds_its_deltas_and_counts(sent: list[Delta], num_steps: int) -> None:
    stats = EngineStats(num_running=len(sent), num_steps=num_steps)
    step = pickle.loads(pickle.dumps(Step.pack(sent, stats)))
    by_id = {delta.request_id: delta for delta in step.deltas()}
    assert by_id == {delta.request_id: delta for delta in sent}
    assert all(isinstance(delta, Delta) for delta in by_id.values())
    assert step.engine_stats() == stats


@given(st.lists(messages), st.lists(st.integers(1, 200), min_size=1))
def test_messages_survive_any_cutting(sent: list[object], sizes: list[int]) -> None:
    stream = b"".join(map(encode, sent))
    decoder, found = Decoder(), []
    while stream:
        for size in sizes:
            found += decoder.feed(stream[:size])
            stream = stream[size:]
    assert found == sent


def test_who_stops_reading_midway_goes_on_with_the_next_message() -> None:
    decoder = Decoder()
    assert next(decoder.feed(encode("first") + encode("second"))) == "first"
    assert list(decoder.feed(b"")) == ["second"]


def test_a_channel_ends_with_its_other_end() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            Channel(theirs).send({"some": "thing"})
            Channel(theirs).send([1])
        assert list(Channel(ours).messages()) == [{"some": "thing"}, [1]]
