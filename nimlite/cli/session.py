"""What every command works with: settings, cache, machine, and where to print."""

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console, RenderableType

from nimlite import startup
from nimlite.errors import SettingError
from nimlite.lookup import find_manifest
from nimlite.observe.bars import LineProgress, console_progress
from nimlite.observe.logs import setup_logging
from nimlite.observe.progress import Progress
from nimlite.probe import Machine, probe
from nimlite.profiles.load import load_manifest
from nimlite.profiles.manifest import Manifest
from nimlite.settings import Settings, notices, read_settings
from nimlite.store.cache import Store
from nimlite.store.disk import is_empty, refusal
from nimlite.store.scratch import scratch_directory

_STARTED = time.monotonic()
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Session:
    """One command's surroundings. Data goes to `out`, talk to `err`."""

    settings: Settings
    store: Store
    out: Console
    err: Console
    progress: Progress
    started: float = _STARTED
    """When the process began, on the monotonic clock."""

    def write(self, data: object, people: RenderableType, *, as_json: bool) -> None:
        """Print `data` as JSON, or what people read."""
        if as_json:
            self.out.file.write(json.dumps(data, indent=2, default=str) + "\n")
        else:
            self.out.print(people, soft_wrap=True, highlight=False)

    def machine(self) -> Machine:
        """The recorded one that the settings name, else this one."""
        if self.settings.machine:
            return Machine.load(Path(self.settings.machine).expanduser())
        return probe(self.settings.cache_path)

    def manifest(self, file: Path | None = None) -> Manifest:
        """The model's, or the one in `file`."""
        if file:
            return load_manifest(file)
        return find_manifest(self.settings.model_path, self.store, self.progress)

    def plan(self) -> startup.Plan:
        """What would be served here."""
        return startup.make_plan(self.manifest(), self.machine(), self.settings)

    def with_a_cache(self) -> "Session":
        """For a command that serves: where the cache directory is empty and can't be filled, one
        that lasts as long as this process."""
        problem = refusal(self.settings.cache_path)
        if problem is None or not is_empty(self.settings.cache_path):
            return self
        try:
            scratch = scratch_directory()
        except OSError:  # what is written first then says why it can't be
            return self
        _log.warning(
            "%s Until then %s takes its place and ends with this process: each start downloads and "
            "builds anew.",
            problem,
            scratch,
        )
        settings = replace(self.settings, cache_path=scratch)
        return replace(self, settings=settings, store=_store(settings))

    def require_this_machine(self) -> None:
        """Raises SettingError where another machine is only asked about."""
        if self.settings.machine:
            raise SettingError(
                f"{self.settings.named('machine')} asks about another machine, and nothing can be "
                "run for it here: add --dry-run, or leave it out."
            )


def open_session(flags: Mapping[str, object]) -> Session:
    """Read the settings, set up the logs, and say which variables do nothing."""
    settings = read_settings(os.environ, flags)
    _tell_libraries(settings)
    err = Console(stderr=True)
    setup_logging(settings.log_level, jsonl=settings.jsonl_logging, console=err)
    for sentence in notices(os.environ):
        _log.warning("%s", sentence)
    store = _store(settings)
    progress = _progress_log() if settings.jsonl_logging else console_progress(err)
    return Session(settings, store, Console(), err, progress)


def _store(settings: Settings) -> Store:
    return Store(
        settings.cache_path,
        offline=settings.offline,
        num_connections=settings.download_connections,
    )


def _tell_libraries(settings: Settings) -> None:
    """Libraries read the environment themselves: some by another name, and after this."""
    if settings.offline:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if bundle := os.environ.get("SSL_CERT_FILE"):
        os.environ.setdefault("REQUESTS_CA_BUNDLE", bundle)


def _progress_log() -> Progress:
    """Progress among the JSON lines, which nothing else may interrupt."""
    return LineProgress(lambda line: _log.info("%s", line))
