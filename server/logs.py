"""What the log looks like: one format for all loggers, as text for people or as JSON for machines.

A record is one line, whatever a client has sent: control characters are escaped, and of a traceback every line is
indented. Bodies, keys and paths are never logged.
"""

import json
import logging
import re
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from server.work import Answer

UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Characters that end a line, steer a terminal or cannot be written."""


class TextFormatter(logging.Formatter):
    """Time, level, logger, message, then the fields of the record as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line; a traceback follows on indented ones."""
        fields = "".join(f" {name}={_in_text(value)}" for name, value in _fields(record).items())
        line = f"{_when(record)} {record.levelname} {record.name}: {record.getMessage()}{fields}"
        trace = _trace(record)
        indented = "".join(f"\n    {escaped(one)}" for one in trace.splitlines())
        return escaped(line) + indented


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time, level, logger, message, its fields, and a traceback as `error`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        content: dict[str, Any] = {
            "time": _when(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if trace := _trace(record):
            content["error"] = trace
        return json.dumps(content, default=str)


def configure_logging(log_format: Literal["text", "json"]) -> None:
    """Give all loggers of the process, uvicorn's too, one handler on standard error, from INFO on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of each malformed form, as do we


def answer_fields(answer: Answer) -> dict[str, Any]:
    """What the log says of an answered request: model, rows, how many rows used how many heads, seconds by phase."""
    timing = answer.timing
    used = Counter(prediction.heads_used for prediction in answer.predictions)
    return {
        "model": answer.card.manifest.name,
        "version": answer.card.manifest.version,
        "rows": len(answer.predictions),
        "heads_used": {str(heads): rows for heads, rows in sorted(used.items())},
        "decode_seconds": round(timing.decode_seconds, 6),
        "queue_seconds": round(timing.queue_seconds, 6),
        "compute_seconds": round(timing.compute_seconds, 6),
    }


def escaped(text: str) -> str:
    """Return `text` with all UNSAFE characters written as escapes, as in a Python string."""
    return UNSAFE.sub(lambda match: match.group().encode("unicode_escape", "surrogatepass").decode(), text)


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    """What a caller has logged with `extra={"fields": ...}`."""
    fields: Mapping[str, Any] = getattr(record, "fields", {})
    return fields


def _in_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{key}:{one}" for key, one in value.items())
    return str(value)


def _trace(record: logging.LogRecord) -> str:
    return logging.Formatter().formatException(record.exc_info) if record.exc_info else ""


def _when(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03}Z"
