"""The same job from object storage: volumes, tiles, checkpoints and MLflow artefacts on an S3 server."""

import json

import boto3
import fsspec
import pytest
import s3fs
from moto.server import ThreadedMotoServer
from user import environment, run, run_here

KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1"}

OWN = {
    "data__anatomy": "anatomy",
    "data__tumour": "tumour",
    "data__label": "spots",
    "tiles__kind": "slice",
    "tiles__step": 1,
}


@pytest.fixture(scope="module")
def server():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(server, monkeypatch):
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": server}.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=server, region_name="us-east-1")
    client.create_bucket(Bucket="lab")
    yield "s3://lab"
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="lab"):
        for item in page.get("Contents", []):
            client.delete_object(Bucket="lab", Key=item["Key"])
    client.delete_bucket(Bucket="lab")


@pytest.mark.slow
def test_the_main_job_reads_and_writes_object_storage(bucket, ome_zarr, segmentors, tmp_path):
    fs = fsspec.filesystem("s3")
    fs.put(str(ome_zarr()), "lab/data/volume.ome.zarr", recursive=True)
    done = run(
        "train_metgan",
        f"{bucket}/runs",
        data__path=f"{bucket}/data/volume.ome.zarr",
        tracking__uri=f"sqlite:///{tmp_path}/mlflow.db",
        tracking__artifacts=f"{bucket}/mlflow",
        tracking__run="far",
        scaling__workers=0,
        env=environment(),
        **OWN,
        **segmentors,
    )
    assert done.code == 0, done.out + done.err
    assert done.out.strip().splitlines()[-1] == f"result: {bucket}/runs/far/result.json"
    result = json.loads(fs.cat_file("lab/runs/far/result.json"))
    assert result["artefacts"]["best_checkpoint"].startswith(f"{bucket}/runs/far/train/metgan/")
    assert fs.exists(result["artefacts"]["best_checkpoint"] + "/state.pt")
    assert fs.exists(result["artefacts"]["tiles"] + "/manifest.json")
    logged = fs.find("lab/mlflow")
    assert any(path.endswith("recipe.yaml") for path in logged)
    assert any(path.endswith(".png") for path in logged)

    from metgan_dist import load_generator

    assert load_generator(f"{bucket}/runs/far").inference == ("generator",)


def test_wrong_credentials_are_one_line(server, tmp_path, monkeypatch):
    """A server that checks signatures: moto answers 403 once authentication is on."""
    import requests

    requests.post(f"{server}/moto-api/reset-auth", data="0", timeout=10)
    try:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "wrong"}.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()  # of other credentials
        done = run_here("make_tiles", tmp_path, data__path="s3://lab/data/volume.ome.zarr", **OWN)
    finally:
        requests.post(f"{server}/moto-api/reset-auth", data="inf", timeout=10)
        s3fs.S3FileSystem.clear_instance_cache()
    assert done.code == 2, done.out + done.err
    lines = done.err.strip().splitlines()
    assert len(lines) == 1, done.err
    assert "s3://lab/data/volume.ome.zarr" in lines[0]
    assert "credential" in lines[0].lower()
