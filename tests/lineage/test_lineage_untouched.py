"""Synthetic tiles behind which something saw the test tiles are refused, and so are those whose past is not known."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from metgan_dist.errors import UserError
from metgan_dist.lineage.tissue import Sources, Tissue, overlapping
from metgan_dist.lineage.untouched import check_start, check_starts, check_untouched
from metgan_dist.lineage.volumes import KnownVolume
from metgan_dist.tracking.server import connect
from metgan_dist.trained import checkpoint_digest

FIELD = "segmentation.datasets"


def refusal(test, synthetic, store=None) -> str:
    with pytest.raises(UserError) as caught:
        check_untouched(FIELD, test, synthetic, store)
    text = str(caught.value)
    assert text.startswith(f"{FIELD}: ")
    assert "\n" not in text
    return text


def test_a_sound_pedigree_is_accepted_with_or_without_a_tracking_uri(study):
    (trained_on,) = check_untouched(FIELD, study.real, study.made, study.store)
    assert trained_on.rows["volume"].unique().tolist() == ["v0", "v1", "v2"]
    check_untouched(FIELD, study.real, study.made)  # the store is found through the runs' folders


def test_an_anatomy_of_a_test_volume_is_refused(study):
    made = study.synthetic("slipped", study.real, study.weights, study.ids["gan"], rows=[*range(16), *range(48, 64)])
    study.run("slipped", "synthesize", generated=made)
    text = refusal(study.real, made, study.store)
    assert f"anatomies of synthetic tiles {made.uri} show test tiles" in text
    assert "volume 'v3', 16 tiles, z 0-4, y 0-32, x 0-32" in text


def test_a_label_of_a_test_volume_is_refused(study):
    row = int(np.flatnonzero(study.real.index["volume"] == "v3")[5])
    made = study.synthetic("label", study.real, study.weights, study.ids["gan"], labels=(0, row))
    study.run("label", "synthesize", generated=made)
    text = refusal(study.real, made, study.store)
    assert f"labels of synthetic tiles {made.uri} show test tiles" in text
    assert "volume 'v3', 1 tile, z 1-2, y 0-16, x 16-32" in text


def test_a_gan_that_saw_the_test_volumes_is_refused(study):
    """The same volumes, split another way: what is tested here was trained on there."""
    other = study.tiles("other", study.volumes(), {"v0": "test", "v1": "train", "v2": "train", "v3": "val"})
    study.run("gan-2", "train_metgan", training=other)
    weights = study.checkpoint("gan-2", b"others")
    made = study.synthetic("by-gan-2", study.real, weights, study.ids["gan-2"])
    study.run("by-gan-2", "synthesize", generated=made)
    text = refusal(study.real, made, study.store)
    assert f"training data of run gan-2 ({study.ids['gan-2']}), the generator of synthetic tiles {made.uri}," in text
    assert "volume 'v3', 16 tiles" in text


@pytest.mark.parametrize(("stage", "what"), [(None, "start"), ("pretrain", "stage pretrain")])
def test_a_gan_that_started_from_one_that_saw_the_test_volumes_is_refused(study, stage, what):
    other = study.tiles("other", study.volumes(), {"v0": "test", "v1": "train", "v2": "train", "v3": "val"})
    study.run("gan-2", "train_metgan", training=other)
    seen = study.checkpoint("gan-2", b"others")
    study.started_from("gan", "gan-2", seen, stage)
    text = refusal(study.real, study.made, study.store)
    assert f"training data of run gan-2 ({study.ids['gan-2']}), the {what} of the generator of synthetic tiles" in text
    (seen / "state.pt").write_bytes(b"replaced")
    assert f"{what} of the generator" in (text := refusal(study.real, study.made, study.store))
    assert "it was replaced afterwards" in text


def test_a_gan_that_saw_the_test_tiles_through_a_mixture_or_a_synthetic_set_is_refused(study):
    seen = study.tiles("seen", study.volumes(), {"v1": "train", "v3": "train"})
    study.run("gan-2", "train_metgan", training=study.mixed("mixture", study.real, seen))
    made = study.synthetic("by-gan-2", study.real, study.checkpoint("gan-2"), study.ids["gan-2"])
    study.run("by-gan-2", "synthesize", generated=made)
    assert "training data of run gan-2" in refusal(study.real, made, study.store)
    study.run("gan-3", "train_metgan", training=made)
    child = study.synthetic("by-gan-3", study.real, study.checkpoint("gan-3"), study.ids["gan-3"])
    study.run("by-gan-3", "synthesize", generated=child)
    assert "training data of run gan-2" in refusal(study.real, child, study.store)


@pytest.mark.parametrize(("test_slices", "touched"), [((3,), False), ((2, 3), True)])
def test_slabs_of_one_volume_touch_only_where_they_overlap(study, test_slices, touched):
    """The GAN was trained on slices 0 to 2 of v0."""
    recipe = study.volumes(("v0",))
    trained = study.tiles("slabs", recipe, {"v0": ["train", "train", "val", "test"]})
    study.run("gan-2", "train_metgan", training=trained)
    made = study.synthetic("by-gan-2", trained, study.checkpoint("gan-2"), study.ids["gan-2"], rows=range(4))
    study.run("by-gan-2", "synthesize", generated=made)
    split = ["unseen" if z in test_slices else "train" for z in range(4)]
    test = study.tiles("test", recipe, {"v0": split})
    if touched:
        assert "volume 'v0', 4 tiles, z 2-3" in refusal(test, made, study.store)
    else:
        check_untouched(FIELD, test, made, study.store)


def test_a_deleted_run_is_refused(study):
    connect(study.store).delete_run(study.ids["gan"])
    assert f"generator of synthetic tiles {study.made.uri}: run gan ({study.ids['gan']}) was deleted" in refusal(
        study.real, study.made, study.store
    )
    connect(study.store).delete_run(study.ids["synth"])
    text = refusal(study.real, study.made, study.store)
    assert f"synthetic tiles {study.made.uri}: run synth ({study.ids['synth']}) was deleted" in text


def test_an_edited_manifest_is_refused_even_when_it_fits_its_index(study, edit):
    edit(study.made, lambda manifest: manifest["synthesis"].update(settings={"count": 9}))
    text = refusal(study.real, type(study.made).open(study.made.uri), study.store)
    assert f"{study.made.uri}/manifest.json" in text
    assert "run synth" in text
    assert "changed afterwards" in text


def test_an_edited_manifest_of_the_generators_tiles_is_refused(study, edit):
    edit(study.real, lambda manifest: manifest["volumes"][3].update(id="v9"))
    text = refusal(study.real, study.made, study.store)
    assert f"source of synthetic tiles {study.made.uri}: {study.real.uri}/manifest.json" in text


def test_a_replaced_checkpoint_is_refused(study):
    (study.weights / "state.pt").write_bytes(b"other weights")
    text = refusal(study.real, study.made, study.store)
    assert f"generator of synthetic tiles {study.made.uri}: state.pt of checkpoint {study.weights}" in text


def test_a_checkpoint_of_another_run_or_of_none_is_refused(study, tmp_path):
    study.run("gan-2", "train_metgan", training=study.real)
    made = study.synthetic("mislabelled", study.real, study.weights, study.ids["gan-2"])
    study.run("mislabelled", "synthesize", generated=made)
    assert f"folder of run {study.ids['gan']}, recorded is {study.ids['gan-2']}" in refusal(
        study.real, made, study.store
    )
    shutil.copytree(study.weights, tmp_path / "copied")
    made = study.synthetic("orphan", study.real, tmp_path / "copied", None)
    study.run("orphan", "synthesize", generated=made)
    assert "no run is known that trained it" in refusal(study.real, made, study.store)


def test_missing_shards_sets_and_checkpoints_are_refused(study):
    shutil.rmtree(Path(study.made.uri) / "shards" / "s.zarr")
    assert "1 of 1 shards are missing, first s.zarr" in refusal(study.real, study.made, study.store)
    made = study.synthetic("again", study.real, study.weights, study.ids["gan"])
    study.run("again", "synthesize", generated=made)
    shutil.move(study.weights, study.folder / "away")
    assert f"generator of synthetic tiles {made.uri}: {study.weights}" in refusal(study.real, made, study.store)
    shutil.rmtree(study.real.uri)
    assert f"source of synthetic tiles {made.uri}: {study.real.uri}" in refusal(study.real, made, study.store)


def test_tiles_that_no_run_generated_or_that_were_not_synthesised_are_refused(study):
    made = study.synthetic("unlogged", study.real, study.weights, study.ids["gan"], labels=(3,))
    assert "no run generated a set of its SHA-256" in refusal(study.real, made, study.store)
    assert "not synthesised" in refusal(study.real, study.real, study.store)


def test_a_generator_without_training_data_is_refused(study):
    study.run("gan-2", "train_metgan")
    made = study.synthetic("by-gan-2", study.real, study.checkpoint("gan-2"), study.ids["gan-2"])
    study.run("by-gan-2", "synthesize", generated=made)
    assert "no data set logged that it was trained on" in refusal(study.real, made, study.store)


def test_the_same_volume_is_known_under_another_id_and_on_another_grid(study):
    """A data set that was listed again, and one of a coarser level."""
    renamed = study.tiles("renamed", study.volumes(("a", "b", "c", "d")), {"a": "train", "d": "test"})
    assert "volume 'v0' ('a' there)" not in refusal_or_none(renamed, study)
    renamed = study.tiles("renamed-2", study.volumes(("a", "b", "c", "d")), {"a": "test", "d": "train"})
    assert "volume 'v0' ('a' there)" in refusal_or_none(renamed, study)
    coarse = [{"id": "v1", "shape": [2, 16, 16]}]
    level = study.tiles("coarse", study.volumes(), {"v1": "test"}, volumes=coarse)
    assert "volume 'v1', on another grid" in refusal_or_none(level, study)


def refusal_or_none(test, study) -> str:
    try:
        check_untouched(FIELD, test, study.made, study.store)
    except UserError as error:
        return str(error)
    return ""


def known(**changes) -> KnownVolume:
    facts = {"id": "1", "shape": (4, 8, 8), "paths": frozenset({"a.tif"}), "cut": "z", "intensities": 5}
    return KnownVolume(**{**facts, **changes})


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"cut": "x", "intensities": 6}, True),
        ({"paths": frozenset({"b.tif"})}, True),
        ({"shape": (2, 4, 4)}, True),
        ({"paths": frozenset({"b.tif"}), "shape": (2, 4, 4)}, False),
        ({"id": "2"}, True),
        ({"id": "2", "cut": "x", "intensities": 6}, True),
        ({"id": "2", "intensities": 6}, False),
        ({"id": "2", "shape": (2, 4, 4)}, False),
        ({"id": "2", "paths": frozenset({"b.tif"})}, False),
    ],
)
def test_when_two_volumes_are_the_same(changes, same):
    assert known().same(known(**changes)) is same
    assert known(**changes).same(known()) is same


def test_overlap_agrees_with_voxels_one_by_one():
    random = np.random.default_rng(3)

    def some(count):
        starts = random.integers(0, 9, (count, 3))
        return np.stack([starts, starts + random.integers(1, 4, (count, 3))], axis=-1)

    these, others = some(200), some(30)
    taken = np.zeros((12, 12, 12), bool)
    for (z0, z1), (y0, y1), (x0, x1) in others:
        taken[z0:z1, y0:y1, x0:x1] = True
    expected = [taken[z0:z1, y0:y1, x0:x1].any() for (z0, z1), (y0, y1), (x0, x1) in these]
    assert overlapping(these, others).tolist() == expected
    assert 0 < sum(expected) < len(these)


@pytest.mark.parametrize(("stage", "what"), [(None, "start"), ("pretrain", "stage pretrain")])
def test_a_run_that_began_with_weights_that_saw_the_test_tiles_is_not_scored_on_them(study, mistake, stage, what):
    folder = str(study.storage / "gan")
    check_starts("--runs", study.real, folder, "gan", study.store)  # which began with nobody's
    study.run("gan-1", "train_metgan", training=study.real)
    study.started_from("gan", "gan-1", study.checkpoint("gan-1", b"others"), stage)
    check_starts("--runs", study.real, folder, "gan", study.store)
    other = study.tiles("other", study.volumes(), {"v0": "test", "v1": "train", "v2": "train", "v3": "val"})
    study.run("gan-2", "train_metgan", training=other)
    study.started_from("gan", "gan-2", study.checkpoint("gan-2", b"seen"), stage)
    seen = f"--runs: training data of run gan-2 ({study.ids['gan-2']}), the {what} of run gan, show test tiles of"
    with mistake(seen, "volume 'v3', 16 tiles", "say nothing"):
        check_starts("--runs", study.real, folder, "gan")  # the store is found through the runs' folders


def translated(study, name, patient, **drawn):
    """Tiles cut from a volume that the GAN translated from v0, which is of a patient; `drawn`: from nothing instead."""
    index = study.index({"v0-as-mr": "train"}).assign(patient=patient)
    synthesis = {
        "model": study.made.manifest["synthesis"]["model"],
        "tiles": {"uri": study.real.uri, "digest": study.real.digest},
        "settings": {},
        "volumes": [{"id": "v0-as-mr", **({} if drawn else {"volume": "v0", "patient": patient})}],
        "voxels_sha256": "ab" * 32,
        **drawn,
    }
    kept = {key: study.real.manifest[key] for key in ("data", "tiles")}
    volumes = [{"id": "v0-as-mr", "shape": [4, 32, 32]}]
    return study.write(study.storage / name, index, {**kept, "volumes": volumes, "synthesis": synthesis})


def test_a_patient_of_the_test_tiles_is_refused_behind_a_translated_volume(study):
    """The volume is of another domain, so no voxel is shared: it is the patient who counts."""
    made = SimpleNamespace(uri=str(study.storage / "volumes"), digest="ab" * 32, index=range(1))
    study.run("translate", "synthesize", generated=made)
    tests = study.real.index["volume"] == "v3"
    study.real.index["patient"] = np.where(tests, "p3", "")
    text = refusal(study.real, translated(study, "same", "p3"), study.store)
    assert "are of patient p3, whom test tiles of" in text
    (trained_on,) = check_untouched(FIELD, study.real, translated(study, "other", "p0"), study.store)
    assert trained_on.rows["volume"].unique().tolist() == ["v0", "v1", "v2"]


@pytest.mark.parametrize("behind", [lambda seen: {"seen": seen}, lambda seen: {"masks": {"seen": seen}}])
def test_masks_of_a_generator_that_learned_from_a_patient_of_the_test_tiles_are_refused(study, behind):
    """Drawn masks, and brains that have them; the generator's own set has masks alone, and shares no volume."""
    made = SimpleNamespace(uri=str(study.storage / "volumes"), digest="ab" * 32, index=range(1))
    study.run("draw", "synthesize", generated=made)
    tests = study.real.index["volume"] == "v3"
    study.real.index["patient"] = np.where(tests, "p3", "")
    seen = {"volumes": ["m0", "m1"], "patients": ["p1", "p3"]}
    text = refusal(study.real, translated(study, "learned", "", **behind(seen)), study.store)
    assert "lesions of patient p3, whom test tiles of" in text
    assert "take masks of others" in text
    others = translated(study, "apart", "", **behind({**seen, "patients": ["p1"]}))
    check_untouched(FIELD, study.real, others, study.store)
    assert not Sources(others).touching(Tissue(study.real.index, {})).any()


def test_brains_by_copy_paste_are_refused_on_whose_lesions_were_measured(study):
    """There is no generator to follow: the volumes whose lesions said how bright the others become, and the masks."""
    made = SimpleNamespace(uri=str(study.storage / "volumes"), digest="ab" * 32, index=range(1))
    study.run("paste", "synthesize", generated=made)
    study.real.index["patient"] = np.where(study.real.index["volume"] == "v3", "p3", "")
    nothing = {"model": {"uri": None, "sha256": None, "method": "copy-paste", "run": None}}

    def pasted(name, volumes, patients):
        return translated(study, name, "", **nothing, measured={"volumes": volumes, "patients": patients})

    (measured,) = check_untouched(FIELD, study.real, pasted("apart", ["v0"], []), study.store)
    assert measured.rows["volume"].unique().tolist() == ["v0"]
    text = refusal(study.real, pasted("seen", ["v0", "v3"], []), study.store)
    assert "lesions measured for synthetic tiles" in text
    assert "show test tiles of" in text
    text = refusal(study.real, pasted("elsewhere", ["v0"], ["p3"]), study.store)
    assert "lesions of patient p3, whom test tiles of" in text


def test_translated_volumes_whose_run_is_not_known_are_refused(study):
    study.real.index["patient"] = ""
    assert "no run generated a set of its SHA-256 abababababab" in refusal(
        study.real, translated(study, "lost", "p0"), study.store
    )


def test_a_model_to_start_from_that_saw_the_test_tiles_is_refused_through_what_it_learned_from(study, mistake):
    def start(run):
        weights = study.checkpoint(run, run.encode())
        return {"uri": str(weights), "sha256": checkpoint_digest(str(weights)), "run": study.ids[run]}

    field = "training.start_from"
    check_start(field, study.real, start("downstream-fold-0"), study.store)  # a fold on real and synthetic tiles
    other = study.tiles("other", study.volumes(), {"v0": "test", "v1": "train", "v2": "train", "v3": "val"})
    study.run("gan-2", "train_metgan", training=other)
    made = study.synthetic("drawn", study.real, study.checkpoint("gan-2", b"seen"), study.ids["gan-2"])
    study.run("drawn", "synthesize", generated=made)
    study.run("pretrained", "train_segmentor", training=study.mixed("pretrained/mix", study.real, made))
    with mistake(
        f"{field}: training data of run gan-2", "show test tiles of", "volume 'v3'", "start from a model that"
    ):
        check_start(field, study.real, start("pretrained"), study.store)
    replaced = {**start("gan-3" if study.run("gan-3", "train_metgan", training=study.real) else ""), "sha256": "0" * 64}
    with mistake(f"{field}: model to start from: state.pt of checkpoint", "it was replaced afterwards"):
        check_start(field, study.real, replaced, study.store)


def test_of_a_singan_only_the_slice_that_it_learned_was_seen_and_whose_the_tumours_are_counts(study):
    """Inserted tumours: tile 3 is of v0; the tile after v2 is of v3, which is held out."""
    made = SimpleNamespace(uri=str(study.storage / "volumes"), digest="ab" * 32, index=range(1))
    study.run("insert", "insert_tumours", generated=made)
    study.real.index["patient"] = np.where(study.real.index["volume"] == "v3", "p3", "")
    weights = {"uri": str(study.weights), "sha256": checkpoint_digest(str(study.weights)), "run": study.ids["gan"]}

    def put(name, tile=3, patients=(), uri=None):
        image = {"method": "singan", "image": {"volume": "v0", "view": "z", "plane": 0, "patient": None, "tile": tile}}
        seen = {"seen": {"volumes": [], "patients": list(patients)}}
        own = {"inserted_into": {"uri": uri, "voxels_sha256": uri and "cd" * 32}}
        masks = {"masks": {"uri": "masks", "voxels_sha256": None, **seen}}
        return translated(study, name, "p0", model={**weights, **image}, **own, **masks)

    (learned,) = check_untouched(FIELD, study.real, put("apart"), study.store)
    assert learned.rows.index.tolist() == [3]
    text = refusal(study.real, put("theirs", patients=["p3"]), study.store)
    assert "lesions of patient p3, whom test tiles of" in text
    assert "volumes of synthetic tiles" in refusal(study.real, put("gone", uri="nowhere"), study.store)


def test_what_made_the_volumes_that_got_tumours_is_followed(study):
    """A data set of translated volumes, whose generator has seen what is held out here."""
    made = SimpleNamespace(uri=str(study.storage / "volumes"), digest="ab" * 32, index=range(1))
    study.run("insert", "insert_tumours", generated=made)
    study.real.index["patient"] = ""
    other = study.tiles("other", study.volumes(), {"v0": "test", "v1": "train", "v2": "train", "v3": "train"})
    study.run("gan-2", "train_metgan", training=other)
    weights = study.checkpoint("gan-2", b"seen")
    model = {"uri": str(weights), "sha256": checkpoint_digest(str(weights)), "method": "cyclegan"}
    before = {"model": {**model, "run": study.ids["gan-2"]}, "tiles": {"uri": other.uri, "digest": other.digest}}
    folder = study.storage / "translated"
    folder.mkdir()
    written = {"synthesis": {**before, "settings": {}, "volumes": [], "voxels_sha256": "cd" * 32}, "volumes": []}
    (folder / "dataset.yaml").write_text(json.dumps(written))
    naive = {"model": {"uri": None, "sha256": None, "method": "naive", "run": None}}
    nowhere = {"uri": "masks", "voxels_sha256": None, "seen": {"volumes": [], "patients": []}}
    place = {"uri": str(folder), "voxels_sha256": "cd" * 32}
    inserted = translated(study, "inserted", "", **naive, inserted_into=place, masks=nowhere)
    text = refusal(study.real, inserted, study.store)
    assert "generator of volumes of synthetic tiles" in text
    assert "volume 'v3'" in text


def test_volumes_with_labels_that_a_segmentor_found_are_real_ones(study):
    """Pseudo-labels: the volumes that tiles show count, whatever made their labels, and so does the segmentor."""
    made = SimpleNamespace(uri=str(study.storage / "volumes"), digest="ab" * 32, index=range(1))
    study.run("label", "segment_volumes", generated=made)
    study.real.index["patient"] = ""
    weights = {"uri": str(study.weights), "sha256": checkpoint_digest(str(study.weights)), "method": "segmentor"}
    found = {"labelled": {"uri": "volumes", "voxels_sha256": None}, "tiles": None}
    model = {"model": {**weights, "run": study.ids["gan"]}}
    # Of a training on v0, v1 and v2, and a volume that nothing else shows.
    assert check_untouched(FIELD, study.real, translated(study, "apart", "", **model, **found), study.store)
    other = study.tiles("other", study.volumes(), {"v0": "test", "v1": "train", "v2": "train", "v3": "train"})
    study.run("gan-2", "train_segmentor", training=other)
    seen = study.checkpoint("gan-2", b"seen")
    model = {"model": {"uri": str(seen), "sha256": checkpoint_digest(str(seen)), "run": study.ids["gan-2"]}}
    text = refusal(study.real, translated(study, "seen", "", **model, **found), study.store)
    assert "generator of synthetic tiles" in text
    assert "volume 'v3'" in text
    translator = {"translator": {**model["model"], "method": "cyclegan"}, "model": {**weights, "run": study.ids["gan"]}}
    text = refusal(study.real, translated(study, "through", "", **translator, **found), study.store)
    assert "translator of synthetic tiles" in text
    synthesis = {
        **model,
        "model": {**weights, "run": study.ids["gan"]},
        **found,
        "settings": {},
        "voxels_sha256": "ab" * 32,
    }
    index, listed = study.index({"v3": "train"}), [{"id": "v3", "volume": "v3", "patient": ""}]
    kept = {key: study.real.manifest[key] for key in ("data", "tiles", "volumes")}
    tiles = study.write(study.storage / "held", index, {**kept, "synthesis": {**synthesis, "volumes": listed}})
    text = refusal(study.real, tiles, study.store)
    assert "volumes of synthetic tiles" in text
    assert "volume 'v3'" in text
