"""The engine: requests in, tokens out.

request.py     the messages across the seam          sequence.py    one request's state
plan.py        scheduler -> runner -> scheduler      scheduler.py   which tokens run now (no torch)
block_pool.py  KV blocks, reference counts           prefix_cache.py  chained hashes of full blocks
batch.py       a plan as flat arrays                 runner.py      a step on the device
sampler.py     logits to tokens                      loop.py        schedule, run, report, for ever
engine.py      the Python API                        client.py      the asyncio side of the loop
"""
