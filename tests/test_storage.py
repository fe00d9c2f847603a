"""The same volumes from object storage: a moto server on loopback stands for S3."""

from __future__ import annotations

import io
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import Request, urlopen

import fsspec
import nibabel
import numpy as np
import pytest
import tifffile
import yaml
import zarr
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from metgan_dist import storage as location
from metgan_dist.errors import DamagedFile
from metgan_dist.recipe import Data
from metgan_dist.volumes.dataset import volume_refs
from metgan_dist.volumes.open import open_volume

REGION = ((1, 4), (3, 19), (7, 25))
CUT = tuple(slice(*r) for r in REGION)
SCALE = [{"type": "scale", "scale": [1.0, 5.0, 2.0, 2.0]}]


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def environment(endpoint, monkeypatch, tmp_path):
    for name in ("FSSPEC_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "right")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "right")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("METGAN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def fresh():
    """No file system of another test: they are cached by arguments, and the environment's credentials are none."""
    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def bucket(endpoint, tmp_path_factory, voxels):
    """A bucket with the same voxels as OME-Zarr (v2 and sharded v3), TIFF planes, TIFF and NIfTI, and a data set."""
    folder = tmp_path_factory.mktemp("upload")
    for version, sharded in ((2, False), (3, True)):
        group = zarr.open_group(str(folder / f"v{version}.ome.zarr"), mode="w", zarr_format=version)
        extra = {"shards": (1, 2, 16, 16)} if sharded else {}
        group.create_array("0", data=voxels[None], chunks=(1, 2, 8, 8), **extra)
        axes = [{"name": a, "unit": "micrometer"} if a != "c" else {"name": a, "type": "channel"} for a in "czyx"]
        image = {"multiscales": [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": SCALE}]}]}
        image["omero"] = {"channels": [{"label": "auto"}]}
        group.attrs.update(image if version == 2 else {"ome": image})
        label = group.create_group("labels").create_group("blobs")
        label.create_array("0", data=(voxels % 2).astype(np.uint8), chunks=(2, 8, 8))
        image = {"multiscales": [{"axes": [{"name": a} for a in "zyx"], "datasets": [{"path": "0"}]}]}
        label.attrs.update(image if version == 2 else {"ome": image})
    (folder / "planes").mkdir()
    for number, plane in enumerate(voxels):
        tifffile.imwrite(folder / f"planes/p{number}.tif", plane, compression="zlib")
    tifffile.imwrite(folder / "v.tif", voxels, compression="zlib", photometric="minisblack")
    nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 1, 0), np.diag([2.0, 3, 4, 1])), folder / "v.nii.gz")
    entries = [{"id": name, "path": f"{name}.ome.zarr", "label": "blobs"} for name in ("v2", "v3")]
    (folder / "dataset.yaml").write_text(yaml.safe_dump({"anatomy": "auto", "tumour": "", "volumes": entries}))
    fs = fsspec.filesystem("s3", endpoint_url=endpoint, key="right", secret="right", skip_instance_cache=True)
    fs.mkdir("mice")
    fs.put(f"{folder}/", "mice/set", recursive=True)
    return "s3://mice/set"


@pytest.mark.parametrize("name", ["v2.ome.zarr", "v3.ome.zarr", "planes", "v.tif", "v.nii.gz"])
def test_every_format_reads_the_same_from_object_storage(bucket, voxels, name):
    volume = open_volume(f"{bucket}/{name}")
    assert volume.uri == f"{bucket}/{name}"
    assert volume.shape == (5, 20, 30)
    np.testing.assert_array_equal(volume.read(volume.channels[0], REGION), voxels[CUT], strict=True)


def test_endpoint_of_the_options_wins(bucket, endpoint, voxels, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    volume = open_volume(f"{bucket}/v3.ome.zarr", options={"endpoint_url": endpoint})
    np.testing.assert_array_equal(volume.read("auto", REGION), voxels[CUT])


def test_data_set_in_a_bucket(bucket, voxels):
    refs = volume_refs(Data(path=bucket))
    assert [ref.base for ref in refs] == [bucket, bucket]
    for ref in refs:
        volume = ref.open()
        np.testing.assert_array_equal(volume.read("anatomy", REGION), voxels[CUT])
        np.testing.assert_array_equal(volume.read("label", REGION), voxels[CUT] % 2)


def test_missing_chunk_object_is_named(bucket, mistake):
    fs, path = location.filesystem(f"{bucket}/v2.ome.zarr/0/0.0.1.1")
    content = fs.cat_file(path)
    fs.rm_file(path)
    try:
        with mistake(f"{bucket}/v2.ome.zarr/0/0.0.1.1", "missing", kind=DamagedFile):
            open_volume(f"{bucket}/v2.ome.zarr").read("auto", ((0, 5), (0, 20), (0, 30)))
    finally:
        fs.pipe_file(path, content)


def test_changed_nifti_is_fetched_again(bucket, voxels, tmp_path):
    uri = f"{bucket}/changing.nii.gz"
    fs, path = location.filesystem(uri)
    for array in (voxels, voxels + 7):
        nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), np.eye(4)), tmp_path / "c.nii.gz")
        fs.put_file(str(tmp_path / "c.nii.gz"), path)
        np.testing.assert_array_equal(open_volume(uri).read("c0", REGION), array[CUT])


def test_large_remote_tiff_is_not_fetched_for_one_plane(bucket):
    array = np.random.default_rng(0).integers(0, 60000, (40, 256, 256), dtype=np.uint16)  # 5 MB that do not compress
    content = io.BytesIO()
    tifffile.imwrite(content, array, photometric="minisblack", compression="zlib")
    fs, path = location.filesystem(f"{bucket}/tall.tif")
    fs.pipe_file(path, content.getvalue())
    volume = open_volume(f"{bucket}/tall.tif")
    blocks = volume._file.filehandle._fh.cache
    before = blocks.total_requested_bytes
    np.testing.assert_array_equal(volume.read("c0", ((20, 21), (0, 256), (0, 256))), array[20:21])
    assert 0 < blocks.total_requested_bytes - before < array.nbytes / 10


def test_missing_path_and_bucket(bucket, mistake):
    with mistake(f"{bucket}/gone.tif", "not found"):
        open_volume(f"{bucket}/gone.tif")
    for path in ("s3://nobody/v.ome.zarr", "s3://nobody/planes"):
        with mistake(path, "no bucket 'nobody'"):
            open_volume(path)
    with mistake("s3://nobody/set", "no bucket 'nobody'"):
        volume_refs(Data(path="s3://nobody/set"))


@pytest.fixture
def locked(bucket, endpoint):
    """The server checks credentials while a test runs."""

    def check_from_request(number):
        headers = {"Content-Type": "text/plain"}
        urlopen(Request(f"{endpoint}/moto-api/reset-auth", data=number, headers=headers, method="POST")).close()

    check_from_request(b"0")
    yield
    check_from_request(b"Infinity")


@pytest.mark.parametrize("name", ["v2.ome.zarr", "planes", "v.tif", "v.nii.gz", "", "dataset.yaml"])
def test_wrong_credentials_are_one_line(bucket, locked, fresh, name, mistake, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
    with mistake(bucket, "access refused", "credentials"):
        volume_refs(Data(path=f"{bucket}/{name}", anatomy="auto", tumour=""))[0].open()


def test_no_credentials_are_one_line(bucket, fresh, mistake, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with mistake(bucket, "no credentials", "AWS_ACCESS_KEY_ID"):
        open_volume(f"{bucket}/v2.ome.zarr")


def test_endpoint_that_does_not_answer_is_one_line(bucket, mistake, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with mistake(bucket, "does not answer", "http://127.0.0.1:9"):
        open_volume(f"{bucket}/v2.ome.zarr", options={"config_kwargs": {"retries": {"max_attempts": 1}}})


def test_throttled_requests_are_repeated(monkeypatch):
    """A server that answers `503 Slow Down` twice before it gives the object."""
    answers = []

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self):
            answers.append(503 if len(answers) < 2 else 200)
            body = b"voxels" if answers[-1] == 200 else b"<Error><Code>SlowDown</Code><Message>slow</Message></Error>"
            self.send_response(answers[-1])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self):
            self.do_GET()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        assert location.read_bytes("s3://mice/v.bin") == b"voxels"
    finally:
        server.shutdown()
        server.server_close()
    assert answers[:3] == [503, 503, 200]


def test_a_cached_file_is_made_by_one_of_those_who_want_it(tmp_path):
    made, paths = [], []

    def make(path):
        made.append(path)
        time.sleep(0.05)
        path.write_text("whole")

    waiting = [threading.Thread(target=lambda: paths.append(location.cached_file("f", make))) for _ in range(4)]
    for one in waiting:
        one.start()
    for one in waiting:
        one.join()
    assert len(made) == 1
    assert {path.read_text() for path in paths} == {"whole"}


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, mistake):
    def full(path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with mistake(str(tmp_path / "cache" / "f"), "no room", "METGAN_CACHE"):
        location.cached_file("f", full)
    assert not list((tmp_path / "cache").glob("f*part"))
    assert not (tmp_path / "cache" / "f").exists()


def test_paths_are_joined_without_surprise():
    assert location.join("s3://b/set", "../other", "v.tif") == "s3://b/other/v.tif"
    assert location.join("/data/set", "./a/../v.tif") == "/data/set/v.tif"
    assert location.join("/data", "s3://b/v.tif") == "s3://b/v.tif"
    assert location.join("s3://b/set", "/local/v.tif") == "/local/v.tif"
    assert location.parent("s3://b/set/v.tif") == "s3://b/set"
    assert location.parent("v.tif") == "."


def test_unknown_scheme_is_one_line(mistake):
    with mistake("nowhere://b/v.tif", "cannot be opened as storage"):
        open_volume("nowhere://b/v.tif")
