"""Log lines: text for people, or one JSON object a line for programs."""

from __future__ import annotations

import json
import logging
import time
from typing import Literal

from aiohttp.http_exceptions import HttpProcessingError

Style = Literal["text", "json"]


class JsonFormatter(logging.Formatter):
    """One object a line: time (UTC, ISO 8601), level, logger, worker, message, traceback."""

    def __init__(self, worker: str) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "worker": self._worker,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class NotHttp(logging.Filter):
    """Tells of bytes that are not HTTP in one line; aiohttp shows a traceback and the bytes."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite such a record; all pass."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            record.msg, record.exc_info = "refused what %s sent: it is not HTTP", None
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


def set_up_logging(style: Style, worker: str) -> None:
    """Log to standard error from now on."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter(worker)
        if style == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    )
    # No line tells of threads, processes or places: half of what a record costs ("Optimization" in
    # the documentation of logging).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("aiohttp").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.server").addFilter(NotHttp())
