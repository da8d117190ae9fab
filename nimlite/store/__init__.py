"""The cache: everything that was downloaded or built, each published whole or not at all.

cache.py    Store: fetch an artifact, verify it, find it again
sources.py  a URI -> where it comes from: pypi.py, hub.py, http.py, local.py
receipt.py  what lies in an artifact's directory      digest.py  sha256 and size of files
inventory.py  what is there, removed by name or for room
lock.py     one process at a time                     disk.py    what a failing disk tells the user
"""
