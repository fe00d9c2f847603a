"""What jobs do with Ray by names that Ray does not publish, each in one function.

Any version of Ray may take such names away: pyproject.toml bounds it, tests/cluster/test_cluster_ray_private.py says
what each is needed for. Others lie with what they belong to: private environment variables in joining.py, the provider
of machines in spot_market.py, Ray Train's callbacks and process group in training/launch.py and process_group.py.
"""

from __future__ import annotations

from typing import Any


def ask_for_an_answer(address: str, seconds: float) -> None:
    """Ask the cluster at `address` (host:port) for its id, and wait so many seconds for it.

    Private: Ray's channel to the control service, its token and its messages. `ray.init` would knock for minutes.

    Raises PermissionError when the token is missing or another one, ConnectionError when nobody answers.
    """
    import grpc  # type: ignore[import-untyped]
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
    from ray.exceptions import AuthenticationError

    channel = None
    try:
        ensure_token_if_auth_enabled(create_token_if_missing=False)
        channel = init_grpc_channel(address)
        gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel).GetClusterId(
            gcs_service_pb2.GetClusterIdRequest(), timeout=seconds
        )
    except AuthenticationError as error:
        raise PermissionError(str(error)) from error
    except grpc.RpcError as error:
        refused = error.code() == grpc.StatusCode.UNAUTHENTICATED
        raise (PermissionError if refused else ConnectionError)(str(error)) from error
    finally:
        if channel is not None:
            channel.close()


def print_news_in_one_line() -> None:
    """Print what Ray tells this driver of its cluster (of a node that died, say) without the dump of its state.

    Private: the function `print_to_stdstream` of ray._private.worker, through which all of it passes, is replaced.
    """
    from ray._private import worker

    def print_first_line(message: dict[str, Any], **_: Any) -> None:
        for text in message["lines"]:
            print(f"Ray: {(text.strip().splitlines() or [''])[0]}", flush=True)

    worker.print_to_stdstream = print_first_line
