"""Keeping secrets out of what is logged: a tracking server is read by many."""

from __future__ import annotations

import os
import re

HIDDEN = "***"

# `key` and `secret` are what s3fs calls the two halves of an S3 credential in `storage.options`.
_SECRET_NAME = r"(?:[\w.\-]*(?:secret|password|passwd|token|credential|access_key|api_key)[\w\-]*|(?:[\w.\-]+\.)?key)"
_NAME = re.compile(rf"{_SECRET_NAME}\Z", re.IGNORECASE)
_ASSIGNMENT = re.compile(
    rf"""(?<![\w.\-])(["']?{_SECRET_NAME}["']?[ \t]*[:=][ \t]*)(?!\s|null|None)("[^"\n]*"|'[^'\n]*'|[^\s,}}\]]+)""",
    re.IGNORECASE,
)
_URL_USER = re.compile(r"(?<=://)[^/\s@]+@")
_SECRET_VARIABLE = re.compile(r"SECRET|PASSWORD|TOKEN|ACCESS_KEY", re.IGNORECASE)
_SHORTEST_SECRET = 8  # shorter values of such variables ("1", "true", "token") are settings, and would hide half a log


def redact(text: str) -> str:
    """The text with credentials replaced by ``***``.

    Hidden are: user and password in URLs; what stands behind names such as ``secret``, ``token`` or ``key`` in YAML,
    JSON and ``name=value`` lines; and the values of the environment's secrets (``AWS_SECRET_ACCESS_KEY``,
    ``MLFLOW_TRACKING_PASSWORD`` and the like) wherever they occur.
    """
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, HIDDEN)
    return _ASSIGNMENT.sub(rf"\1{HIDDEN}", _URL_USER.sub(f"{HIDDEN}@", text))


def redact_value(name: str, value: object) -> str:
    """A parameter's value as text, hidden altogether where the parameter's name says that it is a secret."""
    if _NAME.match(name) and value not in (None, ""):
        return HIDDEN
    return redact(str(value))
