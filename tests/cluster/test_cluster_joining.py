"""Joining a cluster: an address where nobody answers, a missing token, and what a growing cluster is asked for."""

import socket
import threading
import time
from concurrent import futures

import grpc
import pytest
from ray.core.generated import gcs_service_pb2
from servers import free_port

from metgan_dist.cluster import joining as joining
from metgan_dist.errors import UserError
from metgan_dist.recipe import Scaling

TOKEN = "0f" * 16


class Gcs(grpc.GenericRpcHandler):
    """As much of Ray's control service as answers the first question, and refuses whoever has not the token."""

    def service(self, details):
        if not details.method.endswith("/GetClusterId"):
            return None
        given = dict(details.invocation_metadata).get("authorization", "")

        def answer(_request, context):
            if TOKEN not in given:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            return gcs_service_pb2.GetClusterIdReply()

        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=gcs_service_pb2.GetClusterIdRequest.FromString,
            response_serializer=gcs_service_pb2.GetClusterIdReply.SerializeToString,
        )


@pytest.fixture
def gcs():
    server = grpc.server(futures.ThreadPoolExecutor(2), [Gcs()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0)


@pytest.fixture
def credentials(monkeypatch, tmp_path):
    """Sets Ray's token settings; Ray reads them once a process, so its memory of them is wiped around."""
    from ray._raylet import AuthenticationTokenLoader, Config

    def set_to(mode, token=None):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        if token is None:
            monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
        else:
            monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()

    yield set_to
    monkeypatch.undo()
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def test_the_right_token_is_let_in(gcs, credentials):
    credentials("token", TOKEN)
    joining.check_joinable(gcs)


@pytest.mark.parametrize(("mode", "token"), [("disabled", None), ("token", None), ("token", "another")])
def test_a_missing_or_wrong_token_is_said_at_once(gcs, credentials, mode, token):
    credentials(mode, token)
    with pytest.raises(UserError, match=f"scaling.cluster: {gcs}: .*token.* RAY_AUTH_TOKEN_PATH"):
        joining.check_joinable(gcs)


def test_an_address_where_nobody_listens_is_said_at_once(credentials):
    credentials("disabled")
    address = f"127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(UserError, match=f"scaling.cluster: {address}: no Ray cluster answers"):
        joining.check_joinable(address)
    assert time.monotonic() - began < joining.ANSWER_SECONDS + 100  # Ray by itself knocks for minutes


def test_something_else_that_listens_is_not_taken_for_a_cluster(credentials, monkeypatch):
    credentials("disabled")
    monkeypatch.setattr(joining, "ANSWER_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Thread(target=silent.accept, daemon=True).start()
        with pytest.raises(UserError, match="no Ray cluster answers"):
            joining.check_joinable(f"127.0.0.1:{silent.getsockname()[1]}")


@pytest.fixture
def asked(monkeypatch):
    """What the autoscaler is asked for, on a cluster that has nothing at first."""
    requests, sizes = [], iter([{}, {"CPU": 16.0, "GPU": 2.0}])
    monkeypatch.setattr(joining, "request_resources", lambda bundles: requests.append(bundles))
    monkeypatch.setattr(joining.ray, "cluster_resources", lambda: next(sizes))
    monkeypatch.setattr(joining.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(joining.ray, "init", lambda **_: None)
    monkeypatch.setattr(joining.ray, "shutdown", lambda: None)
    monkeypatch.setattr(joining, "check_joinable", lambda _address: None)
    monkeypatch.setattr(joining.time, "sleep", lambda _seconds: None)
    return requests


def test_a_growing_cluster_is_asked_for_the_workers_and_released_at_the_end(asked):
    scaling = Scaling(cluster="10.0.0.1:6379", workers=2, gpus_per_worker=1, grow=True)
    with joining.cluster(scaling):
        plan = joining.plan_for_cluster(scaling, lambda _line: None)
        assert asked == [[{"CPU": 1, "GPU": 1.0}, {"CPU": 1, "GPU": 1.0}, {"CPU": 1}]]
    assert plan.workers == 2
    assert asked[-1] == []


def test_it_is_released_when_the_work_fails(asked):
    scaling = Scaling(cluster="10.0.0.1:6379", grow=True)
    with pytest.raises(KeyError), joining.cluster(scaling):
        raise KeyError
    assert asked == [[]]
