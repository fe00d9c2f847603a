"""Domains of a data set: which one plays which role, with which channels, and what does not fit together."""

import numpy as np
import pytest
import zarr
from two_domains import write_two_domains

from metgan_dist.recipe import Data, Domain, Recipe, VolumeEntry
from metgan_dist.recipe.mistakes import first_mistake
from metgan_dist.volumes.dataset import check_channels, fields_of_its_own, resolve_data, volume_refs
from metgan_dist.volumes.domains import unused_domains

SMALL = {"ct": 2, "mr": 2}


def listed(*domains):
    """A data section with a volume of each of these domains, None for none; no file is looked at."""
    return Data(volumes=[VolumeEntry(id=f"v{k}", path=f"{k}.tif", domain=name) for k, name in enumerate(domains)])


def changed(data, **fields):
    """The section as a recipe gives it, with fields of its own."""
    return Data.model_validate({**data.model_dump(include={"volumes"}), **fields})


def test_the_first_domain_of_the_data_set_is_the_source_and_the_second_the_target():
    resolved = resolve_data(listed("mr", "ct", "mr"))
    assert (resolved.source, resolved.target) == ("mr", "ct")
    ordered = resolve_data(changed(listed("mr", "ct"), domains={"ct": {}, "mr": {}}))
    assert (ordered.source, ordered.target, list(ordered.domains)) == ("ct", "mr", ["ct", "mr"])
    for fields in ({"source": "ct"}, {"target": "mr"}, {"source": "ct", "target": "mr"}):
        asked = resolve_data(changed(listed("mr", "ct"), **fields))
        assert (asked.source, asked.target) == ("ct", "mr")
    for known in (resolved, ordered):
        assert resolve_data(known) == known
        assert Data.model_validate(known.model_dump(mode="json")) == known


def test_a_set_without_domains_stays_as_it_is():
    plain = resolve_data(listed(None, None))
    assert (plain.domains, plain.source, plain.target, plain.apart) == ({}, None, None, False)
    assert changed(plain, unpaired=True).apart
    assert resolve_data(listed("ct", "mr")).apart


def test_channels_are_the_domains_own_else_the_roles_else_the_only_one():
    both = listed("ct", "mr")
    plain = resolve_data(both)
    assert (plain.anatomy, plain.tumour, plain.channel_numbers) == ("", "", (1, 1))
    roles = resolve_data(changed(both, anatomy="a", tumour=["t", "u"]))
    assert [roles.domains[name].channels for name in ("ct", "mr")] == ["a", ["t", "u"]]
    own = resolve_data(changed(both, tumour="t", domains={"ct": {"channels": ["x", "y"]}, "mr": {}}))
    assert (own.anatomy, own.tumour, own.channel_numbers) == (["x", "y"], "t", (2, 1))
    turned = resolve_data(changed(both, source="mr", domains={"ct": {"channels": "c"}, "mr": {"channels": "c"}}))
    assert (turned.anatomy, turned.tumour) == ("c", "c")
    check_channels(turned)  # one name, but other volumes


def test_a_volume_has_the_role_of_its_domain_alone(tmp_path):
    folder = write_two_domains(tmp_path, SMALL, shape=(2, 8, 8), labelled=["ct"])
    refs = volume_refs(Data(path=str(folder)))
    assert [(ref.id, ref.domain) for ref in refs] == [("ct-0", "ct"), ("ct-1", "ct"), ("mr-0", "mr"), ("mr-1", "mr")]
    source, target = refs[0].open(), refs[2].open()
    assert (list(source.dtypes), list(target.dtypes)) == (["anatomy", "label"], ["tumour"])
    whole = ((0, 2), (0, 8), (0, 8))
    assert source.read("anatomy", whole).min() < 0 < 100 <= target.read("tumour", whole).min()
    turned = volume_refs(Data(path=str(folder), source="mr"))
    assert list(turned[0].open().dtypes) == ["tumour", "label"]


def test_of_three_domains_two_are_used(tmp_path):
    folder = write_two_domains(tmp_path, {"ct": 1, "pet": 1, "mr": 1}, shape=(2, 8, 8))
    data = resolve_data(Data(path=str(folder), source="mr", target="ct"))
    assert [ref.id for ref in volume_refs(data)] == ["ct-0", "mr-0"]
    assert unused_domains(data) == ("pet",)
    (folder / "pet-0.nii.gz").unlink()
    assert len(volume_refs(data)) == 2


def test_a_recipe_adds_to_what_a_description_says_of_domains(tmp_path):
    described = {"ct": {"normalise": "minmax", "channels": "c0"}, "mr": {"percentiles": [1, 99]}}
    folder = write_two_domains(tmp_path, SMALL, shape=(2, 8, 8), domains=described, source="mr")
    data = Data.model_validate({"path": str(folder), "domains": {"ct": {"normalise": "none"}}, "source": "ct"})
    resolved = resolve_data(data.model_copy(update={"anatomy": "autofluorescence"}))
    assert resolved.domains == {
        "ct": Domain(normalise="none", channels="c0"),
        "mr": Domain(percentiles=(1, 99), channels=""),
    }
    assert (resolved.source, resolved.target) == ("ct", "mr")
    parted = {"anatomy", "tumour", "label", "volumes"}
    assert fields_of_its_own(Data(path=str(folder))) == parted | {"domains", "source"}
    plain = write_two_domains(tmp_path / "without a table", SMALL, shape=(2, 8, 8))
    assert fields_of_its_own(Data(path=str(plain))) == parted


def test_sets_from_before_domains_are_known_by_what_they_told():
    told = listed(None).told()
    assert "domain" not in told["volumes"][0]
    assert not {"domains", "source", "target", "unpaired"} & told.keys()
    assert changed(listed(None), unpaired=True).told() == told
    assert {"domains", "source", "target"} <= resolve_data(listed("ct", "mr")).told().keys()


# What does not fit together, a line each


@pytest.mark.parametrize(
    ("domains", "fields", "said"),
    [
        (["ct", None, "mr", None], {}, "data.volumes: 2 of 4 volumes have no `domain` (v1, v3); give every volume"),
        (["ct", "mr"], {"domains": {"ct": {}, "mr": {}, "pet": {}}}, "data.domains: no volume has the domain 'pet'"),
        (["ct", "mr"], {"domains": {"ct": {}}}, "data.domains: volume 'v1' has the domain 'mr', which is none of ct"),
        (["ct", "ct"], {}, "data.volumes: all are of the domain 'ct', and a source and a target are needed"),
        (["ct", "mr", "pet"], {}, "data.source: the volumes are of 3 domains (ct, mr, pet); say in data.source and"),
        (["ct", "mr", "pet"], {"source": "mr"}, "data.target: the volumes are of 3 domains (ct, mr, pet)"),
        (["ct", "mr"], {"source": "ct", "target": "ct"}, "data.target: 'ct' is data.source as well; name another"),
        (["ct", "mr"], {"source": "pet"}, "data.source: no volume has the domain 'pet'; there are ct, mr"),
        ([None, None], {"source": "ct"}, "data.source: no volume of the data set has a `domain`"),
        ([None, None], {"domains": {"ct": {}}}, "data.domains: no volume of the data set has a `domain`"),
        (
            ["ct", "mr"],
            {"anatomy": "a", "domains": {"ct": {"channels": "b"}, "mr": {}}},
            "data.anatomy: 'a', but the domain 'ct', which it is of, has the channels 'b'; name them in one place",
        ),
    ],
)
def test_domains_that_do_not_fit_together_are_one_line(domains, fields, said, mistake):
    with mistake(said):
        resolve_data(changed(listed(*domains), **fields))


def test_a_channel_that_a_file_of_a_domain_lacks_is_named_with_the_file(tmp_path, mistake):
    folder = write_two_domains(tmp_path, SMALL, shape=(2, 8, 8))
    data = Data.model_validate({"path": str(folder), "domains": {"mr": {"channels": "t2"}, "ct": {}}})
    with mistake(f"{folder}/mr-0.nii.gz: no channel 't2'; its channels: c0"):
        volume_refs(data)[2].open()


def test_of_several_channels_the_domains_must_be_named(tmp_path, mistake):
    folder = write_two_domains(tmp_path, SMALL, shape=(2, 8, 8), changes={"mr-1": {"path": "mr-1.ome.zarr"}})
    group = zarr.open_group(folder / "mr-1.ome.zarr", mode="w", zarr_format=3)
    group.create_array("0", data=np.ones((2, 2, 8, 8), np.uint16))
    axes = [{"name": name, "type": "channel" if name == "c" else "space"} for name in "czyx"]
    levels = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0] * 4}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}
    said = f"{folder}/mr-1.ome.zarr: its channels are c0, c1; name those of the image"
    with mistake(said, "`channels` of its domain"):
        volume_refs(Data(path=str(folder)))[3].open()


def test_fields_of_a_domain_have_ranges_and_names():
    for fields, said in (
        ({"percentiles": [90, 10]}, "percentiles must be two numbers"),
        ({"window": 3}, "data.domains.ct.window: no such field"),
        ({"normalise": "maximum"}, "data.domains.ct.normalise: 'maximum'"),
        ({"modality": "x-ray"}, "data.domains.ct.modality: 'x-ray'"),
    ):
        with pytest.raises(ValueError) as caught:
            Recipe.model_validate({"data": {"domains": {"ct": fields}}})
        assert said in first_mistake(caught.value)
    with pytest.raises(ValueError, match="domain"):
        VolumeEntry(id="a", path="a", domain="")
    assert Domain(modality="cardiac-ct").rules(Recipe().tiles).modality == "cardiac-ct"


WRITTEN = {"model": {}, "tiles": {}, "settings": {}, "volumes": [], "voxels_sha256": "0"}


def test_synthetic_volumes_may_be_of_one_domain_which_is_the_target(mistake):
    alone = resolve_data(changed(listed("mr", "mr"), synthesis=WRITTEN))
    assert (alone.source, alone.target, list(alone.domains)) == (None, "mr", ["mr"])
    assert resolve_data(alone) == alone
    named = resolve_data(changed(listed("mr"), synthesis=WRITTEN, domains={"mr": {"labels": {7: "a", 9: "b"}}}))
    assert named.classes == 3
    with mistake("data.volumes: all are of the domain 'mr'"):
        resolve_data(listed("mr", "mr"))
    with mistake("data.source: 'mr', but all volumes are synthetic ones of the domain 'mr'"):
        resolve_data(changed(listed("mr"), synthesis=WRITTEN, source="mr"))
    with mistake("data.target: 'ct', but all volumes are synthetic ones of the domain 'mr'"):
        resolve_data(changed(listed("mr"), synthesis=WRITTEN, target="ct"))


def test_how_synthetic_volumes_were_made_is_told_whole_or_not_at_all():
    lacking = {name: value for name, value in WRITTEN.items() if name != "tiles"}
    with pytest.raises(ValueError, match="says nothing of 'tiles': synthesize"):
        Data.model_validate({"synthesis": lacking})
    assert "synthesis" not in Data().told()
    assert Data(synthesis=WRITTEN).told()["synthesis"] == WRITTEN
