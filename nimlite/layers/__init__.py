"""What model specs are made of. A layer holds its weights and asks the device's `Kernels` for the
arithmetic."""
