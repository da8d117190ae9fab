"""The CPU path: C++ kernels built at the first use, driven by a recorded list of operations."""
