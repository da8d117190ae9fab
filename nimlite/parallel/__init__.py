"""Ranks: processes of one machine that hold parts of one model (docs/parallelism.md)."""
