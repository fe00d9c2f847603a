"""Credentials reach the processes that log, and nothing that people read."""

import os
import pickle

import pytest

from metgan_dist.errors import UserError
from metgan_dist.recipe import Storage, Tracking
from metgan_dist.tracking import Credentials, tracking_uri
from metgan_dist.tracking.server import unusable


@pytest.fixture(autouse=True)
def _nobody(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for part in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{part}", "")  # restored after the test, also when it was not set


def test_they_come_from_the_environment_and_make_another_process_the_same_user(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "open-sesame")
    sent = pickle.dumps(Credentials.of_this_process())
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ben")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "close-sesame")
    pickle.loads(sent).adopt()
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("anna", "open-sesame")


def test_they_come_from_mlflows_file_where_the_environment_has_none(tmp_path):
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text(
        "[mlflow]\nmlflow_tracking_username = anna\nmlflow_tracking_password = open-sesame\n"
    )
    assert Credentials.of_this_process() == Credentials("anna", "open-sesame", None)


def test_nothing_given_leaves_a_worker_with_what_its_node_has(monkeypatch):
    nothing = Credentials.of_this_process()
    assert not nothing
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "the-nodes-token")
    nothing.adopt()
    assert os.environ["MLFLOW_TRACKING_TOKEN"] == "the-nodes-token"


def test_they_are_not_shown():
    assert "sesame" not in f"{Credentials('anna', 'open-sesame')!r} {[Credentials(token='open-sesame')]}"


@pytest.mark.parametrize(
    "uri", ["http://anna:open-sesame@server:5000", "postgresql://mlflow:open-sesame@server/mlflow"]
)
def test_an_address_with_a_password_is_refused_since_it_is_written_down(uri):
    with pytest.raises(UserError, match=r"^tracking\.uri .*\*\*\*@server.*PASSWORD") as raised:
        tracking_uri(Tracking(uri=uri), Storage())
    assert "sesame" not in str(raised.value)


class Refusal(Exception):
    error_code = "UNAUTHENTICATED"


def test_a_refused_token_is_told_apart_from_a_refused_password(monkeypatch):
    assert "asks for a user name and password" in unusable("http://server", Refusal())
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "open-sesame")
    assert "refuses the token" in unusable("http://server", Refusal())
