"""Files and folders by URI, on disk or in object storage, and their failures as one line for the user.

Everything goes through fsspec. Retries with growing pauses are botocore's (throttling, 5xx, lost connections) and
s3fs's own on top of them; nothing here repeats a call. Credentials come from the environment or the instance.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import posixpath
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from filelock import FileLock
from fsspec.core import url_to_fs

from metgan_dist.errors import DamagedFile, UserError

Options = dict[str, Any]

_ATTEMPTS = 4
_ENDPOINTS = ("FSSPEC_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


def is_local(uri: str) -> bool:
    """Whether the URI is a path of this machine's file system."""
    return "://" not in uri or uri.startswith(("file://", "local://"))


def storage_options(uri: str, options: Options | None) -> Options:
    """The fsspec options for a URI: the given ones for remote storage (a path on disk takes none), completed for S3.

    The endpoint of S3 is `options["endpoint_url"]`, else FSSPEC_S3_ENDPOINT_URL, AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL.
    Listings are not cached: other workers write while we look.
    """
    if is_local(uri) or uri.startswith("memory://"):
        return {}
    full = dict(options or {})
    if uri.startswith(("s3://", "s3a://")):
        endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None)
        if endpoint and "endpoint_url" not in full.get("client_kwargs", {}):
            full.setdefault("endpoint_url", endpoint)
        retries = {"retries": {"mode": "standard", "max_attempts": _ATTEMPTS}}
        full["config_kwargs"] = {**retries, **full.get("config_kwargs", {})}
        full.setdefault("use_listings_cache", False)
    return full


def filesystem(uri: str, options: Options | None = None) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URI and the path on it, without scheme. Touches no network.

    Raises UserError for a scheme that no installed package serves, and for S3 without a bucket.
    """
    if uri.startswith(("s3:", "s3a:")) and not _bucket(uri):
        raise UserError(f"{uri}: names no bucket; give s3://BUCKET/PATH")
    try:
        return url_to_fs(uri, **storage_options(uri, options))
    except (ValueError, ImportError, TypeError) as error:
        raise UserError(f"{uri}: cannot be opened as storage: {one_line(error)}") from error


def join(uri: str, *parts: str) -> str:
    """`uri` with parts appended; `.` and `..` are resolved; an absolute path or URI among the parts starts afresh."""
    for part in parts:
        if "://" in part or part.startswith(("/", "~")):
            uri = part
            continue
        scheme, separator, path = uri.rpartition("://")
        uri = scheme + separator + posixpath.normpath(posixpath.join(path, part))
    return uri


def absolute(uri: str) -> str:
    """A path on disk made absolute, so that a worker started in another folder finds it; other URIs unchanged."""
    if not is_local(uri):
        scheme, _, path = uri.partition("://")
        return f"{scheme}://{path.rstrip('/')}"
    return os.path.abspath(os.path.expanduser(uri.partition("://")[2] or uri))  # noqa: PTH100, PTH111 - lexical `..`


def parent(uri: str) -> str:
    """The folder that holds what the URI names."""
    scheme, separator, path = uri.rstrip("/").rpartition("://")
    return scheme + separator + (posixpath.dirname(path) or ("" if separator else "."))


def basename(uri: str) -> str:
    """The last part of a URI."""
    return posixpath.basename(uri.rstrip("/"))


@contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """Turn what storage answers to a wrong key, bucket or endpoint into a UserError of one line that names the URI."""
    try:
        yield
    except PermissionError as error:
        hint = "check the file's permissions" if is_local(uri) else "check the credentials in the environment"
        raise UserError(f"{uri}: access refused ({one_line(error)}); {hint}") from error
    except IsADirectoryError as error:
        raise UserError(f"{uri}: a folder, where a file is needed; correct the path, or remove the folder") from error
    except FileNotFoundError as error:
        if isinstance(error.__cause__, ClientError) and "NoSuchBucket" in str(error.__cause__):
            raise UserError(f"{uri}: no bucket '{_bucket(uri)}'; create it or correct the path") from error
        raise
    except NoCredentialsError as error:
        raise UserError(
            f"{uri}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or storage.options {{anon: true}}"
        ) from error
    except BotoCoreError as error:
        raise UserError(
            f"{uri}: storage does not answer ({one_line(error)}); check the endpoint and the network"
        ) from error


def exists(uri: str, options: Options | None = None) -> bool:
    """Whether a file or folder is there; UserError where storage refuses or the bucket does not exist."""
    fs, path = filesystem(uri, options)
    with storage_errors(uri):
        try:
            if fs.exists(path):
                return True
        except ValueError as error:
            raise UserError(f"{uri}: no address ({one_line(error)}); correct it") from error
        if uri.startswith(("s3://", "s3a://")) and not fs.exists(_bucket(uri)):
            raise UserError(f"{uri}: no bucket '{_bucket(uri)}' for these credentials; create it or correct the path")
    return False


def file_size(uri: str, options: Options | None = None) -> int | None:
    """Bytes of a file; None where there is none."""
    fs, path = filesystem(uri, options)
    try:
        with storage_errors(uri):
            return int(fs.info(path)["size"])
    except FileNotFoundError:
        return None


def is_folder(uri: str, options: Options | None = None) -> bool:
    """Whether the URI is a folder (or a prefix that holds objects)."""
    fs, path = filesystem(uri, options)
    with storage_errors(uri):
        return bool(fs.isdir(path))


def entries(uri: str, options: Options | None = None) -> tuple[list[str], list[str]]:
    """Names of the files and of the folders in a folder, hidden ones left out; one listing."""
    fs, path = filesystem(uri, options)
    with storage_errors(uri):
        listing = fs.ls(path, detail=True)
    files: list[str] = []
    folders: list[str] = []
    for entry in listing:
        name = basename(entry["name"])
        # Object storage may list the folder itself as an empty object.
        if name.startswith(".") or entry["name"].rstrip("/") == path.rstrip("/"):
            continue
        (folders if entry["type"] == "directory" else files).append(name)
    return sorted(files), sorted(folders)


def read_bytes(uri: str, options: Options | None = None) -> bytes:
    """A whole (small) file."""
    fs, path = filesystem(uri, options)
    with storage_errors(uri):
        return bytes(fs.cat_file(path))


def read_json(uri: str, options: Options | None, *, holding: Collection[str] = ()) -> dict[str, Any]:
    """What a JSON file of ours holds, a mapping with the fields `holding` at least; DamagedFile for anything else."""
    return json_of(read_bytes(uri, options), uri, holding=holding)


def json_of(content: bytes, uri: str, *, holding: Collection[str] = ()) -> dict[str, Any]:
    """As `read_json`, of the content of the file at `uri`."""
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{uri}: no readable JSON ({one_line(error)}); copy it again, or make it anew") from error
    if not isinstance(tree, dict):
        raise DamagedFile(f"{uri}: holds no mapping, as it was written with; copy it again, or make it anew")
    if lacking := next((name for name in holding if name not in tree), None):
        raise DamagedFile(f"{uri}: lacks {lacking!r}, which it was written with; copy it again, or make it anew")
    return tree


def write_whole(uri: str, content: bytes, options: Options | None) -> None:
    """Write a small file so that it is never seen half written."""
    fs, path = filesystem(uri, options)
    with storage_errors(uri):
        if not is_local(uri):
            fs.pipe_file(path, content)  # an object appears when it is complete
            return
        fs.makedirs(parent(path), exist_ok=True)
        fs.pipe_file(f"{path}.part", content)
        fs.mv(f"{path}.part", path)


def cache_folder() -> Path:
    """Where this machine keeps what it can make again: METGAN_CACHE, or a folder of the user's own under the system's
    temporary folder.
    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(os.environ.get("METGAN_CACHE") or Path(tempfile.gettempdir()) / f"metgan-cache-{user}")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def cached_file(name: str, write: Callable[[Path], None]) -> Path:
    """A file of the cache folder, which `write` makes at the path that it is given, where it is not there.

    One process of the machine makes it while others wait, and it appears only when complete. Its time is that of its
    last use. Raises UserError where there is no room for it.
    """
    file = cache_folder() / name
    with FileLock(f"{file}.lock"):
        if not file.exists():
            partial = file.with_name(f"{file.name}.part")
            try:
                write(partial)
            except OSError as error:
                partial.unlink(missing_ok=True)
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise UserError(
                    f"{file}: no room ({one_line(error)}); set METGAN_CACHE to a folder of this machine that has more"
                ) from error
            partial.replace(file)
    file.touch()
    return file


def local_copy(uri: str, options: Options | None = None) -> Path:
    """A path on this machine with the content of the file: itself, or a copy in the cache folder.

    A copy is named by the object's version, so that a changed object is fetched again, and appears only when complete.
    """
    if is_local(uri):
        return Path(absolute(uri))
    fs, path = filesystem(uri, options)
    folder = cache_folder()
    with storage_errors(uri):
        version = hashlib.sha256(f"{uri} {fs.ukey(path)}".encode()).hexdigest()[:32]
        copy = folder / f"{version}-{basename(uri)}"
        if not copy.exists():
            partial = folder / f"{copy.name}.{os.getpid()}.part"
            fs.get_file(path, str(partial))
            partial.replace(copy)
    return copy


def fetch(uri: str, options: Options | None, names: Collection[str], folder: Path) -> None:
    """Copy the files of a folder that are named, those of them that there are, into a folder of this machine."""
    fs, path = filesystem(uri, options)
    for name in sorted(set(names).intersection(entries(uri, options)[0])):
        with storage_errors(uri):
            fs.get_file(f"{path}/{name}", str(folder / name))


def _bucket(uri: str) -> str:
    return uri.partition("://")[2].partition("/")[0]


def one_line(error: BaseException) -> str:
    """The message of another library's error without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
