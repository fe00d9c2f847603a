"""Slices for blinded readers: which are drawn, and that nothing gives them away."""

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from insertion_sets import asked, inserted, read, write_donors, write_targets
from PIL import Image

from metgan_dist.evaluation.reading import ANSWERS
from metgan_dist.recipe import Data
from metgan_dist.synthesis.insertion import VolumeInsertion
from metgan_dist.synthesis.reader_sheet import reader_slices, sheet_files
from metgan_dist.volumes.dataset import resolve_data, volume_refs


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """sheet(labelled, readers, seed=) -> (slices, folder) of four volumes, naive pastes."""
    folder = tmp_path_factory.mktemp("readers")
    write_donors(folder / "a", 4)

    def sheet(labelled, readers, seed=0):
        own = folder / f"b{labelled}"
        write_targets(own, 4, labelled=labelled)
        given = {"model": "naive", "masks": str(folder / "a"), "readers": readers, "seed": seed}
        plan = VolumeInsertion.planned(asked(own, folder, **given, tiles={"normalise": "minmax"}))
        out = folder / f"out{labelled}"
        _, made = inserted(plan, out)
        written = {ref.id: ref for ref in volume_refs(resolve_data(Data(path=str(out))))}
        job = replace(plan.job, folder=str(out))
        return reader_slices(plan.cases, made, plan.real, written, job), own, out

    return sheet


def test_half_of_the_slices_are_real_and_of_other_volumes_where_there_are_enough(drawn):
    shown, own, out = drawn(0, 4)
    assert sorted(one.truth for one in shown) == ["inserted", "inserted", "real", "real"]
    assert len({one.source.ref.id for one in shown}) == 4
    for one in shown:
        name = one.source.ref.id
        before, (after, _) = read(own, name)[0], read(out, f"{name}-inserted-t2")
        image = before if one.truth == "real" else after
        level = (image[one.plane] - before.min()) / (float(before.max()) - before.min())
        assert np.allclose(one.levels, np.clip(level, 0, 1), atol=1e-5)
        assert one.plane in (1 + int(name[1]) % 3, 2 + int(name[1]) % 3)


def test_real_slices_show_a_tumour_of_the_volumes_own_where_there_are_any(drawn):
    shown, own, _ = drawn(2, 8)
    real = [one for one in shown if one.truth == "real"]
    assert (len(shown), {one.source.ref.id for one in real}) == (4, {"b0", "b1"})  # no more have one
    assert {one.plane for one in real} == {3}
    assert read(own, "b0-label")[0][3].any()


def test_the_order_is_drawn_by_the_seed(drawn):
    orders = [[(one.truth, one.source.ref.id) for one in drawn(0, 4, seed)[0]] for seed in (0, 0, 1, 2)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2] or orders[0] != orders[3]


def test_the_sheet_is_empty_and_the_answers_lie_outside_of_its_folder(drawn):
    shown, _, _ = drawn(0, 4)
    files = sheet_files(shown)
    assert set(files) == {f"reader/slice-00{k}.png" for k in range(1, 5)} | {"reader/sheet.csv", ANSWERS}
    sheet = pd.read_csv(io.BytesIO(files["reader/sheet.csv"]), keep_default_na=False)
    assert list(sheet) == ["slice", "answer"]
    assert set(sheet["answer"]) == {""}
    answers = pd.read_csv(io.BytesIO(files[ANSWERS]))
    assert answers["truth"].tolist() == [one.truth for one in shown]
    assert answers["patient"].tolist() == [one.source.ref.patient for one in shown]
    pixels = np.asarray(Image.open(io.BytesIO(files["reader/slice-001.png"])))
    assert np.array_equal(pixels, np.rint(255 * shown[0].levels))
