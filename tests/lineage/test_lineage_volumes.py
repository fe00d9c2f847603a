"""Files of volumes as they are put on record, and what is told of those that are not as they were."""

import os

import numpy as np
import pytest
from insertion_sets import mask_of, save, write_donors

from metgan_dist.lineage.volumes import check_files, file_digests
from metgan_dist.recipe import Data
from metgan_dist.volumes.dataset import resolve_data, volume_refs


@pytest.fixture
def ref(tmp_path):
    data = resolve_data(Data(path=str(write_donors(tmp_path / "a", 1)), anatomy=""))
    return volume_refs(data)[0]


def test_image_and_label_are_on_record_and_hold_while_they_stay_as_they_are(ref, tmp_path):
    files = file_digests(ref)
    assert list(files) == [str(tmp_path / "a" / f"a0{kind}.nii.gz") for kind in ("", "-label")]
    check_files(files, {}, "link")
    label = tmp_path / "a" / "a0-label.nii.gz"
    kept = label.stat()
    label.write_bytes(label.read_bytes())
    os.utime(label, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    check_files(files, {}, "link")  # a copy that keeps its time


def test_a_file_that_is_gone_or_was_changed_is_named(ref, tmp_path, mistake):
    files = file_digests(ref)
    save(tmp_path / "a", "a0-label", np.zeros_like(mask_of()))
    with mistake("link: ", "a0-label.nii.gz: was changed afterwards"):
        check_files(files, {}, "link")
    (tmp_path / "a" / "a0.nii.gz").unlink()
    with mistake("link: ", "a0.nii.gz: not here any more"):
        check_files(files, {}, "link")
