"""What is written as NIfTI lies on what it was made from."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from metgan_dist.volumes.nifti_writer import write_nifti
from metgan_dist.volumes.open import open_volume
from metgan_dist.volumes.volume import Spacing, whole


@pytest.mark.parametrize("orientation", ["RAS", "SAL", None])
@pytest.mark.parametrize("lies", ["RAS", "LPS", "LIA"])
def test_a_volume_that_was_turned_is_written_as_its_file_lay(tmp_path, voxels, lies, orientation):
    turn = nibabel.orientations.axcodes2ornt(tuple(lies))
    affine = np.array([[0.9, 0, 0.1, 10], [0, 0.8, 0, 20], [0, 0, 5.0, -30], [0, 0, 0, 1.0]])
    source = nibabel.Nifti1Image(voxels.T, affine).as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), turn)
    )
    source.header.set_xyzt_units("mm")
    nibabel.save(source, tmp_path / "source.nii.gz")
    volume = open_volume(str(tmp_path / "source.nii.gz"), orientation=orientation)
    made = volume.read("c0", whole(volume)) + np.uint16(7)
    assert volume.affine is not None
    write_nifti(str(tmp_path / "made.nii.gz"), made, volume.affine, str(volume.lies), volume.spacing)
    written = nibabel.load(tmp_path / "made.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(source.dataobj) + 7, strict=True)
    np.testing.assert_allclose(written.affine, source.affine, atol=1e-5)
    assert written.header.get_xyzt_units()[0] == "mm"
    assert written.header.get_zooms() == pytest.approx(source.header.get_zooms(), rel=1e-5)


def test_a_voxel_size_that_is_not_the_affines_is_kept(tmp_path, voxels):
    affine = np.diag([-1.0, -1, 1, 1])
    write_nifti(str(tmp_path / "v.nii.gz"), voxels, affine, "ASR", Spacing(10, 1.5, 1.25, "millimeter"))
    written = nibabel.load(tmp_path / "v.nii.gz")
    assert written.header.get_zooms() == (1.5, 10, 1.25)
    np.testing.assert_array_equal(nibabel.affines.voxel_sizes(written.affine), [1, 1, 1])
