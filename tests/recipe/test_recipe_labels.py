"""Label maps, orientations and later fields of the data section: what they say, and what they refuse."""

import json

import pytest
from pydantic import ValidationError

from metgan_dist.recipe import Data, class_names, class_numbers
from metgan_dist.recipe.mistakes import first_mistake

HEART = {500: "left ventricle", 205: "myocardium", 421: "left atrium", 420: "left atrium"}


def refused(**fields):
    with pytest.raises(ValidationError) as caught:
        Data.model_validate(fields)
    return first_mistake(caught.value)


def test_classes_are_numbered_by_the_order_of_first_mention_and_0_is_background():
    assert class_names(HEART) == ("background", "left ventricle", "myocardium", "left atrium")
    assert class_numbers(HEART) == {0: 0, 500: 1, 205: 2, 421: 3, 420: 3}
    assert class_numbers({7: "Background", 9: "tumour"}) == {0: 0, 7: 0, 9: 1}
    assert Data.model_validate({"labels": HEART}).classes == 4


def test_a_map_survives_json_and_yaml_in_its_order():
    data = Data.model_validate({"labels": HEART, "unmapped": "background", "orientation": "lps"})
    back = Data.model_validate(json.loads(json.dumps(data.model_dump(mode="json"))))
    assert back == data
    assert list(back.labels or ()) == list(HEART)
    assert (back.classes, back.orientation) == (4, "LPS")


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"labels": {0: "lumen", 1: "wall"}}, ["labels", "value 0 is background", "'lumen'"]),
        ({"labels": {1: " "}}, ["labels", "value 1 has no name"]),
        ({"labels": {3: "background"}}, ["labels", "no class beside background"]),
        ({"labels": {"one": "wall"}}, ["labels", "one", "integer"]),
        ({"labels": HEART, "classes": 7}, ["classes: 7", "names 4", "leave `classes` out"]),
        ({"labels": HEART, "unmapped": "ignore"}, ["unmapped", "ignore", "background"]),
        ({"orientation": "RAA"}, ["orientation", "RAA", "three letters", "such as RAS"]),
        ({"orientation": "canonical"}, ["orientation", "canonical"]),
    ],
)
def test_what_is_wrong_with_a_map_or_an_orientation_is_one_line(fields, parts):
    line = refused(**fields)
    assert "\n" not in line
    for part in parts:
        assert part in line, line


def test_a_set_without_later_fields_is_identified_as_before_and_the_order_of_labels_counts():
    def identity(**fields):
        section = Data.model_validate({"volumes": [{"id": "a", "path": "a.tif"}]} | fields)
        return json.dumps(section.told(), sort_keys=True)

    plain = json.loads(identity())
    assert not {"labels", "unmapped", "orientation", "domains"} & set(plain)
    assert "domain" not in plain["volumes"][0]
    assert identity(labels={1: "a", 2: "b"}) != identity(labels={2: "b", 1: "a"})
    assert identity(labels={10: "a", 9: "b"}) != identity(labels={9: "b", 10: "a"})
    assert identity(orientation="RAS") != identity() == identity(orientation=None)
    assert identity(volumes=[{"id": "a", "path": "a.tif", "domain": "ct"}]) != identity()
