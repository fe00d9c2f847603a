"""The pool shows old fakes as published, keeps pairs together, and continues exactly after a restart."""

import io

import torch

from metgan_dist.methods.image_pool import ImagePool


def image(number):
    return torch.full((1, 1, 2, 2), float(number))


def feed(pool, numbers):
    return [int(pool.query(image(number))[0].flatten()[0]) for number in numbers]


def test_images_pass_through_while_the_pool_fills():
    pool = ImagePool(50)
    assert feed(pool, range(50)) == list(range(50))
    assert len(pool.entries) == 50


def test_a_full_pool_returns_an_older_image_half_of_the_time_and_never_loses_one():
    pool = ImagePool(50, seed=1)
    feed(pool, range(50))
    shown = feed(pool, range(50, 2050))
    swapped = sum(old != new for old, new in zip(shown, range(50, 2050), strict=True))
    assert 900 < swapped < 1100  # 1000 expected, standard deviation 22
    held = [int(entry[0].flatten()[0]) for entry in pool.entries]
    assert sorted(shown + held) == list(range(2050))  # each image is either shown once or still held


def test_any_position_can_be_swapped():
    pool = ImagePool(4, seed=0)
    feed(pool, range(204))
    assert all(int(entry[0].flatten()[0]) > 3 for entry in pool.entries)


def test_size_zero_shows_every_image_once():
    assert feed(ImagePool(0), range(20)) == list(range(20))


def test_images_of_a_batch_are_drawn_one_by_one():
    pool = ImagePool(2, seed=0)
    pool.query(torch.arange(2.0).reshape(2, 1, 1, 1))
    mixed = 0
    for start in range(2, 82, 4):
        batch = torch.arange(start, start + 4.0).reshape(4, 1, 1, 1)
        (shown,) = pool.query(batch)
        assert shown.shape == batch.shape
        mixed += 0 < int((shown != batch).sum()) < 4
    assert mixed > 5


def test_image_and_condition_stay_paired():
    pool = ImagePool(5, seed=3)
    swapped = 0
    for number in range(200):
        shown, condition = pool.query(image(number), -image(number))
        assert torch.equal(shown, -condition)
        swapped += int(shown.flatten()[0]) != number
    assert swapped > 50


def test_continues_as_if_never_stopped_after_a_weights_only_load():
    pool = ImagePool(5, seed=7)
    feed(pool, range(30))
    file = io.BytesIO()
    torch.save(pool.state_dict(), file)
    expected = feed(pool, range(30, 130))
    file.seek(0)
    restored = ImagePool(5)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert feed(restored, range(30, 130)) == expected


def test_saved_state_does_not_change_when_the_pool_goes_on():
    pool = ImagePool(3, seed=0)
    feed(pool, range(3))
    state = pool.state_dict()
    feed(pool, range(3, 60))
    assert [int(entry[0].flatten()[0]) for entry in state["entries"]] == [0, 1, 2]


def test_draws_neither_disturb_nor_depend_on_other_random_numbers():
    pools = [ImagePool(3, seed=5), ImagePool(3, seed=5)]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = feed(pools[0], range(60))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    assert feed(pools[1], range(60)) == first


def test_pooled_images_carry_no_gradient_and_do_not_share_memory():
    pool = ImagePool(1, seed=0)
    fake = torch.ones(1, 1, 2, 2, requires_grad=True)
    (shown,) = pool.query(fake * 2)
    assert not shown.requires_grad
    memory = fake.detach().clone()
    pool = ImagePool(1, seed=0)
    pool.query(memory)
    memory.zero_()  # what a compiled step does to its output buffer
    assert pool.entries[0][0].sum() == 4
