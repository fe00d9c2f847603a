"""A wrong or absent server is told in one line, soon, and before any work."""

import socket
import time

import pytest

import metgan_dist.tracking.server as server_module
from metgan_dist.errors import UserError
from metgan_dist.recipe import Storage, Tracking
from metgan_dist.tracking import check_server, start_run, tracking_uri
from metgan_dist.tracking.server import connect


@pytest.fixture(autouse=True)
def _no_tracking_variable(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_default_is_a_sqlite_file_under_the_storage_with_an_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = f"sqlite:///{tmp_path.resolve()}/runs/mlflow.db"
    assert tracking_uri(Tracking(), Storage()) == expected
    assert tracking_uri(Tracking(), Storage(path=f"file://{tmp_path}/runs")) == expected
    assert tracking_uri(Tracking(uri="sqlite:///runs/mlflow.db"), Storage()) == expected


def test_recipe_goes_before_the_environment_and_the_environment_before_the_default(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-environment:5000")
    assert tracking_uri(Tracking(uri="http://from-recipe:5000"), Storage()) == "http://from-recipe:5000"
    assert tracking_uri(Tracking(), Storage(path="s3://bucket/runs")) == "http://from-environment:5000"


def test_object_storage_without_a_server_asks_for_one():
    with pytest.raises(UserError, match=r"^tracking\.uri: not given.*s3://bucket/runs.*http://host:5000"):
        tracking_uri(Tracking(), Storage(path="s3://bucket/runs"))


@pytest.mark.parametrize("folder", ["mlruns", "./mlruns", "file:///data/mlruns"])
def test_plain_folder_which_mlflow_dropped_is_explained(folder):
    with pytest.raises(UserError, match=r"^tracking\.uri .*mlruns: .*sqlite:///"):
        tracking_uri(Tracking(uri=folder), Storage())


def assert_one_line_soon(uri: str) -> str:
    start = time.monotonic()
    with pytest.raises(UserError, match=r"^tracking\.uri .*: cannot be reached \(") as raised:
        check_server(uri)
    assert time.monotonic() - start < 15
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_closed_port_is_one_line_soon():
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        assert "(Connection refused)" in assert_one_line_soon(f"http://127.0.0.1:{taken.getsockname()[1]}")


def test_server_that_accepts_and_never_answers_is_one_line_soon(monkeypatch):
    assert server_module.ANSWER_SECONDS < 10
    monkeypatch.setattr(server_module, "ANSWER_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        message = assert_one_line_soon(f"http://anna:open-sesame@127.0.0.1:{port}")
        assert "no answer within 1 s" in message
        assert "open-sesame" not in message


def test_something_else_than_a_store_is_one_line(tmp_path):
    (tmp_path / "notes.db").write_text("this is no database")
    assert_one_line_soon(f"sqlite:///{tmp_path}/notes.db")
    (tmp_path / "file").write_text("")
    assert_one_line_soon(f"sqlite:///{tmp_path}/file/mlflow.db")
    assert_one_line_soon("gopher://somewhere")
    assert_one_line_soon("nosuchdatabase://somewhere/mlflow")


def test_new_sqlite_file_is_created_without_a_word(capfd, tmp_path):
    uri = f"sqlite:///{tmp_path}/new/folder/mlflow.db"
    check_server(uri)
    assert connect(uri).get_experiment_by_name("Default") is not None
    start_run(uri, Tracking(), "quiet", {})
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
