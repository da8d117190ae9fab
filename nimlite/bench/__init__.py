"""How fast, how large and how exact: the same workloads for nimlite and its peers.

workload.py     what is asked            timing.py      what came of it, and its figures
client.py       over HTTP                server.py      the process that answers
peers.py        other servers            transformers_generate.py   `generate`, in a process
quality.py      perplexity               report.py      tables and JSON lines
cpu.py          all of it on this machine
"""
