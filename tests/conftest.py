"""Lies here so that pytest puts this folder on the path: test modules share `fakes`."""
