"""The engine: requests in, tokens out.

request.py     the messages across the seam        sequence.py        one request's state
plan.py        scheduler -> runner -> scheduler    scheduler.py       which tokens run (no torch)
block_pool.py  KV blocks, reference counts         prefix_cache.py    chained hashes of full blocks
batch.py       a plan as flat arrays               waiting_queue.py   who is admitted next
runner.py      a step on the device                sampler.py         logits to tokens, on the host
engine.py      the Python API                      device_sampler.py  the same on the device
loop.py        schedule, run, report, for ever     client.py          the asyncio side of an engine
process.py     an engine in a child process        child.py           that process itself
wire.py        what the two say to each other      limits.py          what one request may ask
gpu.py         an engine on one GPU                evaluate.py        logits of a whole text
warmup.py      requests before the first    grammar.py         what an output must follow
token_masks.py which tokens may come next   schema_fault.py    what a schema is refused for
schema_rewrite.py  a schema in known words   grammar_source.py  a grammar in llguidance's form
"""
