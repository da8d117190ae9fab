"""A decoder's dense layers as plans of TensorRT, by one builder for `tensorrt` and `tensorrt_rtx`.

segment.py   what lies between two attentions, in plain data: its inputs, outputs, weights
network.py   a segment as a strongly typed network    plan.py        the network, compiled
target.py    the GPUs that a plan is for              runtime.py     which package runs there
plans.py     a decoder's plans, as they lie in its engine directory; plan_cache.py: kept by key
executor.py  a plan on a GPU                          decoder.py     a decoder that plans compute
recorder.py  TensorRT's own words

engine/dense.py chooses between these and nimlite's own kernels: see docs/tensorrt.md.
"""
