"""What is told of volumes before any of them is cut."""

import numpy as np
import pytest
import tifffile

from metgan_dist.recipe import Data, Tiles, VolumeEntry
from metgan_dist.tiles.survey import fingerprint, survey_volumes
from metgan_dist.volumes.dataset import volume_refs


@pytest.fixture
def data(tmp_path):
    """data(split, ...) -> a data set of one folder of images for each split, whose tables share the patient p."""

    def write(*splits):
        volumes = []
        for number, split in enumerate(splits):
            folder = tmp_path / f"m{number}"
            folder.mkdir()
            for image in range(2):
                tifffile.imwrite(folder / f"i{image}.tif", np.full((8, 8), image, np.uint8))
            (tmp_path / f"m{number}.csv").write_text(f"file,patient\ni0.tif,p\ni1.tif,q{number}\n")
            table = f"m{number}.csv"
            volumes.append({"id": f"m{number}", "path": {"auto": f"m{number}"}, "table": table, "split": split})
        tree = {"path": str(tmp_path), "anatomy": "auto", "tumour": "", "volumes": volumes}
        return Data.model_validate(tree)

    return write


def test_a_patient_whom_tables_put_on_two_sides_is_named(data, mistake):
    described = data("train", "auto", "test")
    with mistake("data.volumes: patient p", "test and to train"):
        survey_volumes(volume_refs(described), described, print)


def test_a_patient_on_one_side_is_none(data):
    described = data("train", "auto", "train")
    assert len(survey_volumes(volume_refs(described), described, print)[0]) == 3


def test_sets_from_before_a_field_are_known_by_their_fingerprint(data):
    described = data("train")
    refs, tiles = volume_refs(described), Tiles()
    told = described.model_copy(update={"one_channel": True})
    assert fingerprint(told, tiles, refs) == fingerprint(described, tiles, refs)
    turned = [entry.model_copy(update={"label_axes": "zyx"}) for entry in described.volumes]
    assert fingerprint(described.model_copy(update={"volumes": turned}), tiles, refs) != fingerprint(
        described, tiles, refs
    )


def test_a_set_keeps_the_fingerprint_that_it_had_before_there_were_domains():
    plain = Data(path="x", volumes=[VolumeEntry(id="a", path="a.tif", patient="p")])
    known = "775a1491d3351673d44f7e403c96f72163c98ceca66a6407bcc2a9c0c907fbd3"  # by the version before
    assert fingerprint(plain, Tiles(), []) == known
    assert fingerprint(plain.model_copy(update={"unpaired": True}), Tiles(), []) == known
    parted = plain.model_copy(update={"source": "ct"})
    assert fingerprint(parted, Tiles(), []) != known
