"""One module a family: `ARCHITECTURES`, `spec` and `weights`. The registry finds them here."""
