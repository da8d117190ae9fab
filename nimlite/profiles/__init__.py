"""Which profile to serve: pure functions over plain data.

manifest.py   Manifest, Profile, Artifact       load.py       profiles/*.yaml, strictly
memory.py     bytes that a profile takes        generate.py   a manifest for a model without one
selection.py  the ranking and its reasons       document.py   YAML with line numbers
"""
