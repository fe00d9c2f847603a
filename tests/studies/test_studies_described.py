"""Data sets that a study describes: synthetic volumes beside the real ones that they were made from."""

import numpy as np
import pytest
import yaml
from insertion_sets import image_of, mask_of, save

from metgan_dist.recipe import Data
from metgan_dist.studies.described import pairs
from metgan_dist.volumes.dataset import resolve_data, volume_refs
from metgan_dist.volumes.volume import whole


def described(folder, tree):
    (folder / "dataset.yaml").write_text(yaml.safe_dump(tree))
    return resolve_data(Data(path=str(folder)))


@pytest.fixture
def sets(tmp_path):
    """Two volumes of t1 and one of t2, and what was made of the former as t2: (made, base)."""
    base, made = tmp_path / "base", tmp_path / "made"
    entries = []
    for number, (name, domain) in enumerate([("a0", "t1"), ("a1", "t1"), ("b0", "t2")]):
        save(base, name, image_of(number))
        path = f"{name}.nii.gz" if number else {"t1": "a0.nii.gz"}
        entries.append({"id": name, "domain": domain, "path": path, "patient": f"p{number}"})
    domains = {"t1": {"channels": "t1"}, "t2": {"channels": "t2"}}
    volumes = []
    for name in ("a1", "a0"):
        save(made, f"{name}-as-t2", image_of(7))
        save(made, f"{name}-label", mask_of())
        image = {"id": f"{name}-as-t2", "domain": "t2", "path": f"{name}-as-t2.nii.gz", "patient": "x"}
        volumes.append({**image, "label": f"{name}-label.nii.gz"})
    listed = [{"id": one["id"], "volume": one["id"].removesuffix("-as-t2")} for one in volumes]
    named = {"domains": {"t2": domains["t2"]}, "target": "t2", "labels": {1: "tumour"}}
    tree = {**named, "synthesis": {"volumes": listed}, "volumes": volumes}
    return described(made, tree), described(base, {"domains": domains, "volumes": entries})


def test_each_synthetic_volume_stands_beside_the_one_that_it_was_made_from(sets, tmp_path):
    made, base = sets
    (tmp_path / "pairs").mkdir()
    laid = described(tmp_path / "pairs", pairs(made, base))
    assert (laid.anatomy, laid.tumour, laid.domains) == ("t2", "t1", {})
    assert laid.synthesis == made.synthesis
    refs = volume_refs(laid)
    assert [(ref.id, ref.patient, ref.split, ref.labelled) for ref in refs] == [
        ("a1-as-t2", "p1", "train", True),
        ("a0-as-t2", "p0", "train", True),
    ]
    volume = refs[1].open()
    image = np.stack([volume.read(layer, whole(volume)) for layer in ("anatomy", "tumour")])
    np.testing.assert_array_equal(image, np.stack([image_of(7), image_of(0)]))
    np.testing.assert_array_equal(volume.read("label", whole(volume)), mask_of())


def test_domains_that_are_no_single_channel_or_have_rules_of_their_own_are_told(sets, mistake):
    made, base = sets
    both = base.domains["t1"].model_copy(update={"channels": ["t1", "flair"]})
    with mistake("", "'a1' has images of 2 channels, and pairs of two domains are of one each"):
        pairs(made, base.model_copy(update={"domains": {**base.domains, "t1": both}}))
    narrow = base.domains["t1"].model_copy(update={"percentiles": (1.0, 99.0)})
    with mistake("data.domains: pairs of two domains", "percentiles None and (1.0, 99.0)"):
        pairs(made, base.model_copy(update={"domains": {**base.domains, "t1": narrow}}))
