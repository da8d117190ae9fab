"""The operations of a decoder as Triton kernels, for CUDA GPUs of compute capability 7.5 and up.

Host functions take the `Device` they run on, so that block shapes follow its limits. Names carry
shapes as in `kernels/base.py`; a plain-torch twin of each kernel stands in `reference.py`.
"""
