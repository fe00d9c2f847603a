"""Real images, compared voxel by voxel with what the formats' own libraries read."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from metgan_dist.recipe import Data, VolumeEntry
from metgan_dist.volumes.dataset import resolve_data, volume_refs
from metgan_dist.volumes.open import open_volume
from metgan_dist.volumes.volume import Spacing, whole

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
CELLS = DATA / "lightsheet/autofluorescence-cells"
pytestmark = pytest.mark.skipif(not CELLS.is_dir(), reason="the real images are not beside the repository")

REGION = ((8, 12), (100, 300), (200, 333))
CUT = tuple(slice(*r) for r in REGION)


@pytest.fixture(scope="module")
def cells():
    volumes = [
        VolumeEntry(id="volume-1", path="volume-1", label="labels/volume-1-cells.tif"),
        VolumeEntry(id="volume-2", path="volume-2/volume-2.ome.zarr", label="blobs"),
    ]
    data = Data(path=str(CELLS), anatomy="autofluorescence", tumour="signal", classes=2, volumes=volumes)
    return [ref.open() for ref in volume_refs(data)]


def test_tiff_planes(cells):
    volume = cells[0]
    assert volume.shape == (26, 1116, 627)
    assert volume.spacing is None
    for role, channel in (("anatomy", "autofluorescence"), ("tumour", "signal")):
        files = sorted((CELLS / "volume-1" / channel).glob("*.tif"))
        expected = tifffile.imread(files[8:12])[:, *CUT[1:]]
        np.testing.assert_array_equal(volume.read(role, REGION), expected, strict=True)
    label = tifffile.imread(CELLS / "labels/volume-1-cells.tif")
    np.testing.assert_array_equal(volume.read("label", ((0, 26), (0, 1116), (0, 627))), label, strict=True)


def test_ome_zarr_0_4(cells):
    volume = cells[1]
    assert volume.shape == (30, 510, 667)
    assert volume.spacing == Spacing(5.0, 2.0, 2.0, "micrometer")
    folder = CELLS / "volume-2/volume-2.ome.zarr"
    array = zarr.open_array(str(folder / "s0"), mode="r")[:]
    np.testing.assert_array_equal(volume.read("tumour", REGION), array[0][CUT], strict=True)
    np.testing.assert_array_equal(volume.read("anatomy", ((0, 30), (0, 510), (0, 667))), array[1], strict=True)
    label = zarr.open_array(str(folder / "labels/blobs/s0"), mode="r")[:]
    np.testing.assert_array_equal(volume.read("label", ((0, 30), (0, 510), (0, 667))), label, strict=True)
    assert open_volume(str(folder), level="s2").shape == zarr.open_array(str(folder / "s2"), mode="r").shape[1:]


def test_ome_zarr_0_5_sharded():
    folder = DATA / "lightsheet/tumour-3ch/tumour-3ch.ome.zarr"
    volume = open_volume(str(folder))
    assert volume.channels == ("virus", "nuclei", "vessel")
    assert volume.shape == (12, 757, 573)
    assert volume.chunks == (4, 256, 256)
    assert volume.spacing == Spacing(4.0, 4.0, 4.0, "micrometer")
    array = zarr.open_array(str(folder / "s0"), mode="r")[:]
    for number, channel in enumerate(volume.channels):
        np.testing.assert_array_equal(volume.read(channel, whole(volume)), array[number], strict=True)
    label = open_volume(str(folder / "labels/core_periphery"), level="s1")
    expected = zarr.open_array(str(folder / "labels/core_periphery/s1"), mode="r")[:]
    np.testing.assert_array_equal(label.read("c0", whole(label)), expected, strict=True)


def test_nifti_dwi():
    folder = DATA / "dwi/acute-stroke"
    path = {"dwi": "dwi.nii.gz", "b0": "b0.nii.gz"}
    for subject in ("subject01", "subject02"):
        entry = VolumeEntry(id=subject, path=path, label="lesion.nii.gz", unit="millimeter")
        data = Data(path=str(folder / subject), anatomy="dwi", tumour="b0", volumes=[entry])
        volume = volume_refs(data)[0].open()
        z, y, x = volume.shape
        for role, name in (("anatomy", "dwi"), ("tumour", "b0"), ("label", "lesion")):
            image = nibabel.load(folder / subject / f"{name}.nii.gz")
            expected = np.asarray(image.dataobj).transpose(2, 1, 0)
            np.testing.assert_array_equal(volume.read(role, ((0, z), (0, y), (0, x))), expected)
        assert volume.spacing is not None
        assert (volume.spacing.z, volume.spacing.unit) == (5.0, "millimeter")


def test_png_slices_with_masks_by_name():
    folder = DATA / "cardiac/ct-slices"
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    volume = open_volume({name: str(folder / name) for name in names})
    assert volume.shape == (24, 512, 512)
    assert volume.names is not None
    for channel in volume.channels:
        expected = np.asarray(Image.open(folder / channel / volume.names[5]))
        np.testing.assert_array_equal(volume.read(channel, ((5, 6), (0, 512), (0, 512)))[0], expected)


TUMOURS = DATA / "mr-tumour"


@pytest.mark.skipif(not TUMOURS.is_dir(), reason="the real heads are not beside the repository")
def test_real_heads_in_t1_and_t2_are_two_domains_of_different_patients():
    """Glioma with masks: T1 after contrast agent of one patient, T2 of another, which no mask is read of."""
    folder = TUMOURS / "brats2013-t1c-t2"
    first, second = sorted(path.name for path in folder.iterdir())
    volumes = [
        VolumeEntry(
            id=first, path=f"{first}/t1c.nii.gz", label=f"{first}/tumour-mask.nii.gz", domain="t1", patient=first
        ),
        VolumeEntry(id=second, path=f"{second}/t2.nii.gz", domain="t2", patient=second),
    ]
    labels = {1: "core", 2: "oedema", 3: "core", 4: "core"}
    data = resolve_data(Data(path=str(folder), anatomy="", tumour="", labels=labels, volumes=volumes))
    assert (data.source, data.target, data.classes) == ("t1", "t2", 3)
    source, target = (ref.open() for ref in volume_refs(data))
    assert (source.has("anatomy"), source.has("label")) == (True, True)
    assert (target.has("tumour"), target.has("label")) == (True, False)
    z, y, x = source.shape
    mask = np.asarray(nibabel.load(folder / first / "tumour-mask.nii.gz").dataobj).transpose(2, 1, 0)
    found = source.read("label", ((0, z), (0, y), (0, x)))
    np.testing.assert_array_equal(found == 2, mask == 2)
    np.testing.assert_array_equal(found == 1, np.isin(mask, (1, 3, 4)))
    assert (found == 1).any()
    expected = np.asarray(nibabel.load(folder / second / "t2.nii.gz").dataobj).transpose(2, 1, 0)
    np.testing.assert_array_equal(target.read("tumour", ((0, z), (0, y), (0, x))), expected)
