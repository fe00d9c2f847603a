"""Published weights of the networks that judge images: where they lie, and proof that they are the published ones.

Nothing is downloaded from the publishers. `METGAN_WEIGHTS` names a folder or an fsspec URI that holds the files under
their published names; a file in object storage is fetched once into the cache of this machine (METGAN_CACHE, or a
folder of the user's own under the system's temporary folder).

A score computed with other weights is another score. So a file must have the SHA-256 of the published one, unless
`METGAN_WEIGHTS_UNVERIFIED=1` is set; whatever is then computed from other weights is named by `score_name`
with ``_unverified`` at its end.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from botocore.exceptions import BotoCoreError, ClientError
from fsspec.core import url_to_fs

from metgan_dist.errors import DamagedFile, UserError

FOLDER = "METGAN_WEIGHTS"
ALLOW_UNVERIFIED = "METGAN_WEIGHTS_UNVERIFIED"


@dataclass(frozen=True)
class Published:
    """A file of weights that others published; torch.hub's file names end in the first digits of the SHA-256."""

    file: str
    sha256: str
    purpose: str
    publisher: str
    url: str


PUBLISHED = {
    "inception": Published(
        "pt_inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        "FID and KID",
        "pytorch-fid",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    ),
    "alexnet": Published(
        "alexnet-owt-7be5be79.pth",
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        "LPIPS",
        "torchvision",
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    ),
    "vgg19": Published(
        "vgg19-dcbb9e9d.pth",
        "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
        "the perceptual loss",
        "torchvision",
        "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
    ),
}


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights on this machine, and the SHA-256 of its content."""

    name: str
    path: Path
    sha256: str

    @property
    def verified(self) -> bool:
        """Whether the content is the published one."""
        return self.sha256 == PUBLISHED[self.name].sha256


def weights_path(name: str) -> Path:
    """Where the published weights `name` (a key of `PUBLISHED`) lie on this machine; see `find_weights`."""
    return find_weights(name).path


def find_weights(name: str) -> WeightsFile:
    """The weights `name` (a key of `PUBLISHED`), fetched to this machine if they are remote, their content checked.

    Raises:
        UserError: METGAN_WEIGHTS is not set, the file is not there, or it is not the published one.
        DamagedFile: other weights are allowed, but the file is no file of weights.
    """
    published = PUBLISHED[name]
    uri = _uri(name)
    if uri is None:
        raise UserError(
            f"{FOLDER}: not set, but {published.purpose} needs {published.file}; get it from {published.url} "
            f"(published by {published.publisher}) and set {FOLDER} to the folder that holds it"
        )
    path = _local(uri)
    if path is None:
        raise UserError(
            f"{uri}: missing; {published.purpose} needs it in the folder that {FOLDER} names; "
            f"get it from {published.url} (published by {published.publisher})"
        )
    with path.open("rb") as stream:
        file = WeightsFile(name, path, hashlib.file_digest(stream, "sha256").hexdigest())
    if not file.verified:
        _check_unverified(file, uri)
    return file


def missing(names: Iterable[str]) -> list[str]:
    """Those of the weights that METGAN_WEIGHTS does not hold, found without fetching any: for a job to ask beforehand.

    Whether a file that is there is the published one is told by `find_weights`, whose error also says where to get it.
    """
    return [name for name in names if not ((uri := _uri(name)) and _exists(uri))]


def score_name(score: str, name: str, sha256: str) -> str:
    """What `score` is called when computed from weights `name` of this content: itself, or ``<score>_unverified``."""
    return score if sha256 == PUBLISHED[name].sha256 else f"{score}_unverified"


@contextmanager
def torch_hub(name: str) -> Iterator[WeightsFile]:
    """Within it, libraries that get the weights through torch.hub find the file there instead of downloading it.

    So a library loads its network by its own code. Build the network within, use it anywhere; on leaving, torch.hub is
    as before and so is torch's random state, which the libraries' initialisation draws from. Not for several threads
    at a time.

    Raises:
        UserError: as `find_weights`, or unverified weights are not those of the network that is built.
    """
    file = find_weights(name)
    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        downloads = Path(folder) / "checkpoints"
        downloads.mkdir()
        (downloads / PUBLISHED[name].file).symlink_to(file.path)
        torch.hub.set_dir(folder)
        try:
            yield file
        except (RuntimeError, TypeError) as error:
            if file.verified:
                raise
            raise UserError(f"{file.path}: not weights of this network ({_one_line(error)[:200]})") from error
        finally:
            torch.hub.set_dir(before)


def _check_unverified(file: WeightsFile, uri: str) -> None:
    published = PUBLISHED[file.name]
    if os.environ.get(ALLOW_UNVERIFIED) != "1":
        raise UserError(
            f"{uri}: damaged or other weights (SHA-256 {file.sha256[:8]}..., published {published.sha256[:8]}...); "
            f"get it from {published.url}, or set {ALLOW_UNVERIFIED}=1 to report scores as '_unverified'"
        )
    try:  # the libraries unpickle without restraint: let nothing but tensors through to them
        torch.load(file.path, map_location="cpu", weights_only=True)
    except Exception as error:  # arbitrary bytes fail in any way
        raise DamagedFile(f"{uri}: cannot be read as weights ({_one_line(error)[:200]}); get it again") from error


def _uri(name: str) -> str | None:
    folder = os.environ.get(FOLDER)
    return f"{folder.rstrip('/')}/{PUBLISHED[name].file}" if folder else None


def _exists(uri: str) -> bool:
    with _storage_errors(uri):
        fs, path = url_to_fs(uri)
        try:
            return fs.info(path)["type"] != "directory"
        except FileNotFoundError:
            return False


def _local(uri: str) -> Path | None:
    """The file on this machine: itself or a copy named by the object's version; None where there is no file."""
    if not _exists(uri):
        return None
    with _storage_errors(uri):
        fs, path = url_to_fs(uri)
        if "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)):
            return Path(path)
        user = os.getuid() if hasattr(os, "getuid") else "user"
        cache = Path(os.environ.get("METGAN_CACHE") or Path(tempfile.gettempdir()) / f"metgan-cache-{user}")
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        version = hashlib.sha256(f"{uri} {fs.ukey(path)}".encode()).hexdigest()[:32]
        copy = cache / f"{version}-{Path(path).name}"
        if not copy.exists():  # several workers may fetch it at once: each its own part, the last one stays
            partial = copy.with_name(f"{copy.name}.{os.getpid()}.part")
            fs.get_file(path, str(partial))
            partial.replace(copy)
    return copy


@contextmanager
def _storage_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, ImportError, BotoCoreError, ClientError) as error:
        raise UserError(f"{uri}: cannot be read ({_one_line(error)}); check {FOLDER}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
