"""One set-up of logging for the whole process: lines for people, or JSON objects for collectors.

Prompts and answers are never logged. What belongs to a request is logged with
`extra={"request_id": …}`, and the id appears in both forms.
"""

import logging
import time

import orjson
from rich.console import Console
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler

from nimlite.settings import LogLevel

_LEVELS = {LogLevel.TRACE: logging.DEBUG, LogLevel.DEFAULT: logging.INFO}


def setup_logging(level: LogLevel, *, jsonl: bool, console: Console) -> None:
    """Send everything that is logged to `console`, once, whoever set up what before."""
    handler: logging.Handler
    if jsonl:
        handler = logging.StreamHandler(console.file)
        handler.setFormatter(JsonFormatter())
    elif console.is_terminal:
        # Shares the console with progress bars, so that a line does not tear them.
        handler = RichHandler(
            console=console,
            show_path=False,
            log_time_format="%X",
            highlighter=NullHighlighter(),
        )
        handler.setFormatter(_RequestFormatter("%(message)s"))
    else:
        handler = logging.StreamHandler(console.file)
        handler.setFormatter(_RequestFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    python_level = _LEVELS.get(level) or logging.getLevelNamesMapping()[level]
    logging.basicConfig(level=python_level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    # They only narrate what they do.
    for chatty in ("httpx", "httpcore", "urllib3", "filelock", "asyncio", "uvicorn"):
        logging.getLogger(chatty).setLevel(max(python_level, logging.WARNING))


class _RequestFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        request_id = getattr(record, "request_id", None)
        return f"{line} [{request_id}]" if request_id else line


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time (UTC), level, logger, message, request id, exception."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := getattr(record, "request_id", None):
            entry["request_id"] = request_id
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(entry).decode()
