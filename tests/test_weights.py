"""Published weights: found, fetched whole, proven by their digest, and never mistaken for others."""

import hashlib
import os
from pathlib import Path

import fsspec
import pytest
import torch
import torchvision
from pytorch_fid.inception import FID_WEIGHTS_URL

from metgan_dist.errors import DamagedFile, UserError
from metgan_dist.weights import PUBLISHED, Published, find_weights, missing, score_name, torch_hub, weights_path

FILE = "small-0badcafe.pth"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights with one file, `small`, that is the published one."""
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.save({"weight": torch.arange(3.0)}, folder / FILE)
    digest = hashlib.sha256((folder / FILE).read_bytes()).hexdigest()
    published = Published(FILE, digest, "the small score", "a library", "https://example.org/" + FILE)
    monkeypatch.setitem(PUBLISHED, "small", published)
    monkeypatch.setenv("METGAN_WEIGHTS", str(folder))
    monkeypatch.delenv("METGAN_WEIGHTS_UNVERIFIED", raising=False)
    return folder


def test_published_digests_begin_as_the_file_names_end():
    for published in PUBLISHED.values():
        assert len(published.sha256) == 64
        assert published.sha256[:8] == torch.hub.HASH_REGEX.search(published.file).group(1)
        assert published.url.endswith("/" + published.file)


def test_table_names_the_files_that_the_libraries_would_download():
    assert PUBLISHED["inception"].url == FID_WEIGHTS_URL
    assert PUBLISHED["alexnet"].url == torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url
    assert PUBLISHED["vgg19"].url == torchvision.models.VGG19_Weights.IMAGENET1K_V1.url


def test_published_file_is_found_where_it_lies(folder):
    assert weights_path("small") == folder / FILE
    assert find_weights("small").verified
    (folder / "real.pth").write_bytes((folder / FILE).read_bytes())
    (folder / FILE).unlink()
    (folder / FILE).symlink_to(folder / "real.pth")
    assert find_weights("small").verified
    assert missing(["small", "vgg19"]) == ["vgg19"]


def test_missing_file_is_one_line_that_says_what_for_where_and_whence(folder, monkeypatch):
    (folder / FILE).unlink()
    assert missing(["small"]) == ["small"]
    with pytest.raises(
        UserError, match=rf"{folder / FILE}: missing; the small score .* METGAN_WEIGHTS .*https://"
    ) as e:
        weights_path("small")
    assert "\n" not in str(e.value)
    monkeypatch.delenv("METGAN_WEIGHTS")
    assert missing(["small"]) == ["small"]
    with pytest.raises(UserError, match=rf"^METGAN_WEIGHTS: not set, but the small score needs {FILE}.*a library"):
        weights_path("small")


def test_other_weights_are_refused_or_change_the_name_of_the_score(folder, monkeypatch):
    torch.save({"weight": torch.zeros(3)}, folder / FILE)
    with pytest.raises(UserError, match=rf"{FILE}: damaged or other weights .*METGAN_WEIGHTS_UNVERIFIED=1"):
        weights_path("small")
    monkeypatch.setenv("METGAN_WEIGHTS_UNVERIFIED", "1")
    weights = find_weights("small")
    assert not weights.verified
    assert score_name("fid", "small", weights.sha256) == "fid_unverified"


def test_permission_for_other_weights_does_not_rename_scores_of_the_published_ones(folder, monkeypatch):
    monkeypatch.setenv("METGAN_WEIGHTS_UNVERIFIED", "1")
    weights = find_weights("small")
    assert weights.verified
    assert score_name("fid", "small", weights.sha256) == "fid"


class Intruder:
    """An object whose unpickling would run a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("content", ["text", "half", "pickle"])
def test_damaged_file_is_named_even_where_other_weights_are_allowed(folder, tmp_path, monkeypatch, content):
    monkeypatch.setenv("METGAN_WEIGHTS_UNVERIFIED", "1")
    path = folder / FILE
    if content == "text":
        path.write_text("no such page")
    elif content == "half":
        path.write_bytes(path.read_bytes()[:500])
    else:
        torch.save(Intruder(f"touch {tmp_path / 'intruded'}"), path)
    with pytest.raises(DamagedFile, match=FILE) as caught:
        weights_path("small")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "intruded").exists()


def test_remote_file_is_fetched_once_and_again_when_it_changes(folder, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("METGAN_CACHE", str(cache))
    monkeypatch.setenv("METGAN_WEIGHTS", "memory://published/")
    remote = fsspec.filesystem("memory")
    assert missing(["small"]) == ["small"]
    with pytest.raises(UserError, match=rf"^memory://published/{FILE}: missing"):
        weights_path("small")
    remote.pipe_file(f"/published/{FILE}", (folder / FILE).read_bytes())
    try:
        assert missing(["small"]) == []
        assert not cache.exists()
        first = weights_path("small")
        fetched = first.stat().st_mtime_ns
        assert weights_path("small") == first
        assert first.stat().st_mtime_ns == fetched
        assert [path.name for path in cache.iterdir()] == [first.name]
        remote.pipe_file(f"/published/{FILE}", b"other")
        with pytest.raises(UserError, match="damaged or other weights"):
            weights_path("small")
    finally:
        remote.rm("/published", recursive=True)


def test_unknown_storage_is_one_line(monkeypatch):
    monkeypatch.setenv("METGAN_WEIGHTS", "nowhere://weights")
    with pytest.raises(UserError, match=r"^nowhere://weights/alexnet.*METGAN_WEIGHTS") as caught:
        missing(["alexnet"])
    assert "\n" not in str(caught.value)


def test_libraries_find_the_file_without_a_download_and_torch_is_left_as_it_was(folder):
    before, state = torch.hub.get_dir(), torch.get_rng_state()
    with torch_hub("small") as weights:
        loaded = torch.hub.load_state_dict_from_url(PUBLISHED["small"].url)
        torch.rand(3)
    assert loaded["weight"].tolist() == [0, 1, 2]
    assert weights.path == folder / FILE
    assert torch.hub.get_dir() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_of_another_network_are_one_line(folder, monkeypatch):
    torch.save({"other": torch.zeros(3)}, folder / FILE)
    monkeypatch.setenv("METGAN_WEIGHTS_UNVERIFIED", "1")
    before = torch.hub.get_dir()
    with pytest.raises(UserError, match=rf"{FILE}: not weights of this network") as caught, torch_hub("small") as file:
        torch.nn.Linear(2, 2).load_state_dict(torch.load(file.path))
    assert "\n" not in str(caught.value)
    assert torch.hub.get_dir() == before
