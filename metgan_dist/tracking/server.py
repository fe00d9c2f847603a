"""Where MLflow is, whether it answers, and how to talk to it quietly."""

from __future__ import annotations

import logging
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from metgan_dist.errors import UserError
from metgan_dist.recipe import Storage, Tracking
from metgan_dist.storage import one_line
from metgan_dist.tracking.credentials import PASSWORD, USERNAME, Credentials
from metgan_dist.tracking.redaction import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

ANSWER_SECONDS = 8.0

_SETTINGS = {
    # The journal does the waiting; inside MLflow a request fails at once, so that closing a run keeps its deadline.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A library run on patients' data reports to nobody. Read by MLflow when it is imported.
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def tracking_uri(tracking: Tracking, storage: Storage) -> str:
    """The MLflow tracking URI of a recipe, the same from every working folder.

    In this order: `tracking.uri`; the variable ``MLFLOW_TRACKING_URI``; a SQLite file ``mlflow.db`` under
    `storage.path`. Paths of SQLite files become absolute.

    Raises:
        UserError: the URI is a plain folder, which MLflow no longer takes; or it holds a password, which would be
            written down with it; or none is given and `storage.path` is an object store, which cannot hold a SQLite
            file (and a file on the driver's own disk would be lost with it).
    """
    field, uri = "tracking.uri", tracking.uri
    if not uri and os.environ.get("MLFLOW_TRACKING_URI"):
        field, uri = "MLFLOW_TRACKING_URI", os.environ["MLFLOW_TRACKING_URI"]
    if not uri:
        folder = urlsplit(storage.path)
        if folder.scheme not in ("", "file"):
            raise UserError(
                f"tracking.uri: not given, and storage.path {redact(storage.path)} cannot hold MLflow's SQLite file; "
                "set tracking.uri to a server (http://host:5000) or to sqlite:///FOLDER/mlflow.db"
            )
        path = folder.path if folder.scheme else storage.path
        return _absolute_sqlite(f"sqlite:///{path}/mlflow.db", f"storage.path {storage.path}")
    if uri.startswith("file:") or ("://" not in uri and not uri.startswith("databricks")):
        raise UserError(
            f"{field} {redact(uri)}: MLflow does not take plain folders; "
            "use a server (http://host:5000) or sqlite:///FOLDER/mlflow.db"
        )
    try:
        password = urlsplit(uri).password
    except ValueError as error:
        raise UserError(f"{field} {redact(uri)}: no address ({one_line(error)}); check brackets and port") from error
    if password is not None:
        where = (
            f"{USERNAME} and {PASSWORD}" if uri.startswith("http") else "the environment (PGPASSWORD for PostgreSQL)"
        )
        raise UserError(
            f"{field} {redact(uri)}: holds a password, which the run's files would show; put it into {where}"
        )
    return _absolute_sqlite(uri, f"{field} {uri}") if uri.startswith("sqlite:") else uri


def check_server(uri: str) -> None:
    """Ask the tracking server for an answer, for at most 10 seconds; a SQLite file is created where there is none.

    Raises UserError in one line when it cannot be reached or refuses the credentials.
    """
    if uri.startswith("sqlite:"):
        _ask(uri)  # creating the tables takes as long as it takes, and no network is involved
        return
    quieten()  # importing MLflow takes seconds that are not the server's
    outcome: list[UserError] = []

    def ask() -> None:
        """Ask in the thread; a UserError goes to `outcome`, as a thread cannot raise it in its caller."""
        try:
            _ask(uri)
        except UserError as error:
            outcome.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    if asking.is_alive():
        raise UserError(unreachable(uri, f"no answer within {ANSWER_SECONDS:.0f} s"))
    if outcome:
        raise outcome[0]


def quieten() -> None:
    """Import MLflow so that it neither chatters nor waits by itself; what the user set in the environment stays."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401  (after its settings, some of which it reads on import)

    # MLflow also logs, with its traceback, what it raises: who catches it tells it in a line.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def connect(uri: str) -> MlflowClient:
    """A quiet MLflow client. On a database, this alone may wait for the network."""
    quieten()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def unreachable(uri: str, reason: str) -> str:
    """The one line for a tracking server that does not answer."""
    return f"tracking.uri {redact(uri)}: cannot be reached ({reason}); start the server or set another tracking.uri"


def unusable(uri: str, error: Exception) -> str:
    """The one line for a tracking server that turned a request down, or was not there to do so."""
    code, known = getattr(error, "error_code", None), Credentials.of_this_process()
    if code in ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"):
        why = f"refuses the password of {known.username}" if known.username else "refuses the token"
        ask = f"set {USERNAME} and {PASSWORD}"
        return f"tracking.uri {redact(uri)}: {why if known else 'asks for a user name and password'}; {ask}"
    if code == "PERMISSION_DENIED":
        ask = "ask its administrator for the permission EDIT, or set another tracking.experiment"
        return (
            f"tracking.uri {redact(uri)}: does not let {known.username or 'this user'} write to the experiment; {ask}"
        )
    return unreachable(uri, short_reason(error))


def short_reason(error: BaseException) -> str:
    """The cause that a person wants to read, out of MLflow's, urllib3's or SQLAlchemy's nested messages."""
    text = redact(" ".join(str(error).split()))
    if cause := re.search(r"\[Errno -?\d+\] ([^'\")\]]+)", text):
        return cause.group(1).strip()
    if re.search(r"timed? ?out", text, re.IGNORECASE):
        return "timed out"
    return text[:200] or type(error).__name__


def _ask(uri: str) -> None:
    try:
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        connect(uri).search_experiments(max_results=1)
    except Exception as error:  # MLflow, SQLAlchemy, a missing database driver: each has errors of its own
        raise UserError(unusable(uri, error)) from error


def _absolute_sqlite(uri: str, said: str) -> str:
    """The address with an absolute path; UserError, beginning with what was `said`, for one that is no file's."""
    name = uri.removeprefix("sqlite:///")
    if name in ("", uri) or name.endswith("/"):
        raise UserError(f"{said}: names no file; write sqlite:///FOLDER/mlflow.db")
    if odd := next((sign for sign in "?#%" if sign in name), None):
        raise UserError(f"{said}: {odd!r} has a meaning of its own in the address of a database; name another folder")
    path = Path(name).expanduser().resolve()
    if path.is_dir():
        raise UserError(f"{said}: {path} is a folder; write sqlite:///{path}/mlflow.db")
    if blocked := next((one for one in path.parents if one.exists() and not one.is_dir()), None):
        raise UserError(f"{said}: {blocked} is a file; name a folder")
    return f"sqlite:///{path}"
