"""The work of insert_tumours.py from its plan to its result, in this process; stopped in the middle and continued."""

import io
import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from insertion_sets import asked, write_donors, write_singan, write_targets

from metgan_dist.cluster.resources import plan_resources
from metgan_dist.recipe import Data, Scaling, Tiles
from metgan_dist.runs.job import Result
from metgan_dist.storage import join
from metgan_dist.synthesis import insertion
from metgan_dist.synthesis.inserting import Source
from metgan_dist.synthesis.insertion import VolumeInsertion
from metgan_dist.synthesis.insertion_sources import Sources, real_tumours
from metgan_dist.synthesis.passes import Pass
from metgan_dist.volumes.dataset import resolve_data, volume_refs


class Stopped(Exception):
    """What ends a job in the middle of its work."""


class Here(Pass):
    """A pass whose tasks are done one after the other by this process, markers and all."""

    most = None

    def tasks(self, work, jobs):
        known, todo = self._known(jobs)
        yield from known
        for count, (name, job) in enumerate(todo.items()):
            if self.markers and count == self.most:
                raise Stopped
            yield self._marked(name, work(job))

    def crewed(self, make, jobs, crew):
        yield from self.tasks(make(), jobs)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    write_targets(folder / "b", labelled=2)
    write_donors(folder / "a")
    return folder, write_singan(folder, write_targets(folder / "learned"))


@pytest.fixture
def run_in(monkeypatch):
    """run_in(recipe, folder, most=None) -> what the run has kept; stopped after `most` volumes."""

    def run(recipe, folder, most=None):
        monkeypatch.setattr(Here, "most", most)
        monkeypatch.setattr(insertion, "Pass", Here)
        monkeypatch.setattr(insertion, "ray", SimpleNamespace(available_resources=lambda: {"CPU": 2.0}))
        logged = []

        @contextmanager
        def log():
            yield SimpleNamespace(dataset=lambda name, uri, digest, context, count: logged.append((context, digest)))

        kept = {}

        def keep(files, artefacts):
            kept.update(files)
            opened.result.artefacts |= {artefacts[name]: join(str(folder), name) for name in files}

        opened = SimpleNamespace(
            recipe=recipe,
            run=SimpleNamespace(folder=str(folder), options={}),
            plan=plan_resources(Scaling(), 2, 0),
            result=Result(),
            log=log,
            keep=keep,
        )
        VolumeInsertion.planned(recipe).carry_out(opened)
        return SimpleNamespace(result=opened.result, kept=kept, logged=logged)

    return run


def recipe_of(sets, out, **fields):
    folder, run = sets
    given = {"model": run, "start_scale": 1, "masks": str(folder / "a"), "dilate": 2, "blur": 1, **fields}
    return asked(folder / "b", out, **given)


def test_a_run_leaves_a_data_set_scores_pictures_and_a_sheet(sets, run_in, tmp_path, capsys):
    done = run_in(recipe_of(sets, tmp_path, readers=4), tmp_path)
    scores = done.result.scores["insertion"]
    assert scores["background_difference"] == 0
    assert (scores["volumes"], scores["patients"], scores["voxels"]) == (3, 3, 60)
    assert 0 < scores["intensity_distance"] < 1  # two volumes have tumours of their own
    assert {"border_ratio", "seam_ratio", "naive_border_ratio", "naive_seam_ratio"} <= set(scores)
    table = pd.read_csv(io.BytesIO(done.kept["scores.csv"]))
    # Of ellipses with brighter tumours: nothing stood out before, the paste does, and so do two volumes' own tumours.
    assert abs(scores["contrast_before"]) < abs(scores["naive_contrast"])
    assert scores["lost_contrast_before"] == (table["contrast_before"].abs() < 0.5).sum()
    assert (scores["lost_contrast_of_donor"], scores["real_tumours"]) == (0, 2)
    assert table["contrast"].mean() == pytest.approx(scores["contrast"])
    assert table["volume"].tolist() == ["b0", "b1", "b2"]
    assert table["border_ratio"].mean() == pytest.approx(scores["border_ratio"])
    assert done.kept["preview.png"].startswith(b"\x89PNG")
    assert done.logged == [("source", done.logged[0][1]), ("generated", done.result.artefacts["voxels_sha256"])]
    assert len(list((tmp_path / "reader").glob("*.png"))) == 4
    assert (tmp_path / "reader-answers.csv").exists()
    said = capsys.readouterr().out
    assert "readers: 4 slices, half of them real ones with tumours of their own" in said
    assert "intensities" in said
    assert f"before {scores['contrast_before']:.2f} ({scores['lost_contrast_before']} of 3 lost)" in said
    refs = volume_refs(resolve_data(Data(path=done.result.artefacts["dataset"])))
    assert [ref.id for ref in refs] == [f"b{k}-inserted" for k in range(3)]


def test_a_run_that_is_stopped_makes_what_is_missing_and_ends_with_the_same_bytes(sets, run_in, tmp_path, capsys):
    recipe = recipe_of(sets, tmp_path, pairs="drawn", place="tissue", count=5)
    whole = run_in(recipe, tmp_path / "whole")
    with pytest.raises(Stopped):
        run_in(recipe, tmp_path / "stopped", most=2)
    made = sorted((tmp_path / "stopped" / "volumes").glob("*.nii.gz"))
    assert len(made) == 4
    assert not (tmp_path / "stopped" / "volumes" / "dataset.yaml").exists()
    times = [path.stat().st_mtime_ns for path in made]
    again = run_in(recipe, tmp_path / "stopped")
    assert "insertion: 2 of 5 volumes are there already" in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in made] == times
    assert again.result.artefacts["voxels_sha256"] == whole.result.artefacts["voxels_sha256"]
    for path in (tmp_path / "whole" / "volumes").glob("*.nii.gz"):
        assert path.read_bytes() == (tmp_path / "stopped" / "volumes" / path.name).read_bytes()


def test_what_volumes_follow_from_may_not_change_below_them(sets, run_in, tmp_path, capsys):
    folder = tmp_path / "own"
    write_donors(folder / "a")
    recipe = recipe_of(sets, tmp_path, masks=str(folder / "a"))
    before = run_in(recipe, tmp_path / "run")
    label = folder / "a" / "a0-label.nii.gz"
    label.write_bytes((folder / "a" / "a1-label.nii.gz").read_bytes())
    after = run_in(recipe, tmp_path / "run")
    assert "it is started afresh" in capsys.readouterr().out
    assert after.result.artefacts["voxels_sha256"] != before.result.artefacts["voxels_sha256"]


def test_voxels_that_should_not_have_changed_end_the_job(sets, run_in, tmp_path, monkeypatch):
    from metgan_dist.synthesis import inserting

    monkeypatch.setattr(inserting, "background_difference", lambda *_: 3.0)
    with pytest.raises(RuntimeError, match="differ by up to 3"):
        run_in(recipe_of(sets, tmp_path, volumes=["b0"]), tmp_path)


def test_a_volume_that_was_made_by_translation_gets_the_tumour_of_its_original(sets, tmp_path, mistake):
    """As the paper's workflow has it: the data set says which volume each was made from, and so is the chain kept."""
    folder, run = sets
    translated = write_targets(tmp_path / "translated", 2)
    described = yaml.safe_load((translated / "dataset.yaml").read_text())
    origins = {"b0": "a2", "b1": "a0"}
    listed = [{"id": name, "volume": own, "patient": None, "voxels_sha256": "0"} for name, own in origins.items()]
    made = {"model": {}, "tiles": {}, "settings": {}, "volumes": listed, "voxels_sha256": "ab" * 32}
    for entry in described["volumes"]:
        del entry["patient"]
    (translated / "dataset.yaml").write_text(yaml.safe_dump({**described, "synthesis": made}))
    recipe = asked(translated, tmp_path, model=run, start_scale=1, masks=str(folder / "a"))
    plan = VolumeInsertion.planned(recipe)
    assert [(case.target.ref.id, case.donor.ref.id) for case in plan.cases] == [("b0", "a2"), ("b1", "a0")]
    assert plan.facts["inserted_into"] == {"uri": str(translated), "voxels_sha256": "ab" * 32}
    assert json.loads(json.dumps(plan.facts))["masks"]["voxels_sha256"] is None
    assert np.all([case.target.origin in origins.values() for case in plan.cases])
    # Nobody's slices are real here, and donors of no named domain show another kind of image.
    assert plan.real == ()
    with mistake("insertion.readers: the volumes are synthetic"):
        VolumeInsertion.planned(
            asked(translated, tmp_path, model=run, start_scale=1, masks=str(folder / "a"), readers=2)
        )
    assert Path(plan.learned.tiles.uri).is_dir()


def test_real_tumours_beside_synthetic_volumes_are_those_of_the_domain_that_they_imitate():
    def sources(synthesis, *listed):
        refs = [SimpleNamespace(id=name, domain=domain) for name, domain, _ in listed]
        found = tuple(Source(ref, own, Tiles(), ref.id) for ref, (_, _, own) in zip(refs, listed, strict=True))
        return Sources(SimpleNamespace(synthesis=synthesis), found, ())

    donors = sources(None, ("a", "t1", 1), ("b", "t2", 1), ("c", "t2", 1))
    translated = sources({"volumes": []}, ("a-as-t2", "t2", 1))
    assert [one.ref.id for one in real_tumours(translated, donors)] == ["b", "c"]
    real = sources(None, ("d", "t2", 1), ("e", "t2", 0))
    assert [one.ref.id for one in real_tumours(real, donors)] == ["d"]
