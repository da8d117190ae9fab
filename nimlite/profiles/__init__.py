"""Which profile to serve: pure functions over plain data.

manifest.py   Manifest, Profile, Artifact        shape.py          how large a model is
load.py       profiles/*.yaml, strictly          document.py       YAML with line numbers
matrix.py     a row that stands for several      schema.py         the files' JSON Schema
generate.py   a manifest for a model without     nim.py            a manifest in NIM's shape
support.py    what this version can execute      compatibility.py  what a GPU can
memory.py     bytes that a profile takes         capacity.py       what fits, as a table
rates.py      how fast the devices are           calibration.py    what of it is reached
nearest.py    a card among those that are known  roofline.py       how fast a profile will be
placement.py  GPUs that may work together        goal.py           what the user wants, as a score
judge.py      one profile on one machine         selection.py      the ranking, and the choice
checkpoint_size.py  parameters of a checkpoint
overrides.py  what the user's settings say       explain.py        the reasons
candidate.py  what passes between them           hopeless.py       what to say where nothing runs
"""
