"""What the user asked for, typed and read once, with the place each value came from.

    command line ─► environment ─► config file ─► profile ─► default      the first that says wins

fields.py  Settings: every field is one setting, and its docstring the manual
values.py  texts read into values: sizes, shares, lists, tags
nim.py     every variable of NIM's: a setting by another name, or why it has no effect
flags.py   the settings' flags      file.py  the config file
layers.py  all of them laid over each other
manual.py  docs/settings.md, and what `nimlite config` shows
"""

from nimlite.settings.fields import Settings
from nimlite.settings.given import Given, Origin
from nimlite.settings.layers import read_settings
from nimlite.settings.nim import notices
from nimlite.settings.values import Goal, LogLevel, default_cache_path

__all__ = [
    "Given",
    "Goal",
    "LogLevel",
    "Origin",
    "Settings",
    "default_cache_path",
    "notices",
    "read_settings",
]
