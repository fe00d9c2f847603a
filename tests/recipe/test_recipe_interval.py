"""How often something is done is one field, in images, steps or time, and a mistake in it one line."""

import pytest
from pydantic import ValidationError

from metgan_dist.recipe import Interval, Recipe, Training
from metgan_dist.recipe.mistakes import first_mistake


@pytest.mark.parametrize(
    ("given", "stored", "number", "unit", "seconds"),
    [
        (2000, 2000, 2000, "images", None),
        ("2000", 2000, 2000, "images", None),
        ("2000 images", 2000, 2000, "images", None),
        (2000.0, 2000, 2000, "images", None),
        ("500 steps", "500 steps", 500, "steps", None),
        ("1 step", "1 steps", 1, "steps", None),
        ("45 s", "45 s", 45, "s", 45),
        (" 30min ", "30 min", 30, "min", 1800),
        ("1.5 h", "1.5 h", 1.5, "h", 5400),
    ],
)
def test_images_steps_and_times_have_one_spelling_each(given, stored, number, unit, seconds):
    training = Training(validate_every=given, checkpoint_every=given)
    assert (training.validate_every, training.checkpoint_every) == (stored, stored)
    assert Training.model_validate(training.model_dump(mode="json")) == training
    interval = Interval.of(training.validate_every)
    assert (interval.number, interval.unit, interval.seconds) == (number, unit, seconds)
    assert interval.times(3) == Interval(3 * number, unit)


@pytest.mark.parametrize("field", ["validate_every", "checkpoint_every"])
@pytest.mark.parametrize(
    "given", [0, -5, True, None, 2.5, "", "often", "30 parsecs", "1.5 steps", "0 min", "-1 h", "min"]
)
def test_anything_else_is_a_line_that_names_the_field_and_what_it_takes(field, given):
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({"training": {field: given}})
    assert first_mistake(caught.value) == (
        f"training.{field}: {given!r}: must be images (2000), steps (500 steps) or a time (45 s, 30 min, 2 h), above 0"
    )


def test_patience_does_not_count_validations_by_the_clock():
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({"training": {"validate_every": "30 min", "patience": 3}})
    assert first_mistake(caught.value) == (
        "training: patience counts validations, and how many '30 min' has in a run depends on the machine; give "
        "validate_every in images or steps, or leave patience out"
    )
    assert Training(validate_every="10 steps", patience=3).patience == 3
