"""What a job shows the MLflow server: user name and password, or a token, from its environment."""

from __future__ import annotations

import os
from dataclasses import dataclass

USERNAME, PASSWORD, TOKEN = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"


@dataclass(frozen=True, repr=False)
class Credentials:
    """Credentials that travel from a job's driver to its workers, whose nodes have an environment of their own.

    Ray shows what it passes on in its dashboard and logs; there, these are three stars.
    """

    username: str | None = None
    password: str | None = None
    token: str | None = None

    @classmethod
    def of_this_process(cls) -> Credentials:
        """Those of the environment, and where it has none, those of MLflow's file ``~/.mlflow/credentials``."""
        from mlflow.utils.credentials import read_mlflow_creds

        known = read_mlflow_creds()
        return cls(known.username, known.password, os.environ.get(TOKEN) or None)

    def adopt(self) -> None:
        """Make them this process's own; what is not among them stays as it is."""
        for name, value in ((USERNAME, self.username), (PASSWORD, self.password), (TOKEN, self.token)):
            if value:
                os.environ[name] = value

    def __bool__(self) -> bool:
        return bool(self.token or (self.username and self.password))

    def __repr__(self) -> str:
        return "Credentials(***)" if self else "Credentials()"
