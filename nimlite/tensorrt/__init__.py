"""Plans of TensorRT for the dense parts of a decoder, by one builder for `tensorrt` and
`tensorrt_rtx`.

segment.py   what lies between two attentions, in plain data: its inputs, outputs, weights
network.py   a segment as a strongly typed network       target.py   the GPUs that a plan is for
plan.py      the network, compiled                       plan_cache.py  plans by what shaped them
runtime.py   which of torch and TensorRT runs, and why   recorder.py    TensorRT's own words

Nothing here is served from: see docs/tensorrt.md.
"""
