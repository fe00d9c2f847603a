"""A segmentor behind a translator sees what that makes, plane by plane, in its direction, and no label goes with it."""

import pytest
import torch
from networkless import Networkless

from metgan_dist.methods.segmentor import Segmentor, SegmentorNetwork
from metgan_dist.tasks.seen_through import Translator, find_through


class Brightness(SegmentorNetwork):
    """Finds what is bright."""

    def forward(self, image):
        return 8 * image


class Inverter(Networkless):
    """Forth it turns bright into dark, back it dims; it would paint labels white if it were told any."""

    translates_back = True

    def translate(self, batch):
        assert not batch["label"].any()
        return torch.where(batch["label"][:, None] > 0, 1.0, -batch["anatomy"])

    def translate_back(self, batch):
        assert not batch["tumour_label"].any()
        return batch["tumour"] / 4

    def pictures(self, batch):
        return {}


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.rand(2, 1, 3, 16, 16) * 2 - 1


def test_crops_are_translated_plane_by_plane_by_a_translator_of_slices(images):
    torch.testing.assert_close(Translator(Inverter(), (16, 16), back=False)(images), -images)
    torch.testing.assert_close(Translator(Inverter(), (16, 16), back=True)(images), images / 4)
    # Windows that are smaller than a plane are blended: of a function of single pixels nothing is lost.
    torch.testing.assert_close(Translator(Inverter(), (8, 8), back=True)(images), images / 4)
    torch.testing.assert_close(Translator(Inverter(), (3, 16, 16), back=False)(images), -images)


def test_a_segmentor_finds_in_what_is_made_for_it(images):
    segmentor = Segmentor(Brightness(2, width=1 / 16))
    batch = {"tumour": images[:, :, 0], "label": torch.ones(2, 16, 16, dtype=torch.long)}
    bright = images[:, 0, 0] > 0
    itself = find_through(segmentor)(batch).argmax(dim=1)
    through = find_through(segmentor, Translator(Inverter(), (16, 16), back=False))(batch).argmax(dim=1)
    assert torch.equal(itself == 1, bright)
    assert torch.equal(through == 1, ~bright)
