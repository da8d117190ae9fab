"""The arithmetic of a decoder on a device, behind one interface."""

from nimlite.kernels.select import SelectedKernels, cpu_kernels

__all__ = ["SelectedKernels", "cpu_kernels"]
