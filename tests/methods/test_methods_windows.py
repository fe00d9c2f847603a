"""A method on images larger than its tiles: every window gets its own part of all that is given, and fades out."""

import pytest
import torch
from networkless import Networkless
from turns import batch

from metgan_dist.methods.segmentor import Segmentor, SegmentorNetwork
from metgan_dist.methods.windows import translate_in_windows


class Pointwise(Networkless):
    """Mixes what lies at the same place, and notes the sizes that it saw; `rim` darkens the border of its images."""

    def __init__(self, rim=False):
        super().__init__()
        self.rim, self.seen = rim, []

    def translate(self, batch):
        anatomy, label = batch["anatomy"], batch["label"]
        assert label.dtype == torch.int64
        assert anatomy.shape[2:] == label.shape[1:]
        assert len(batch["organ"]) == len(anatomy)
        self.seen.append(tuple(anatomy.shape[2:]))
        organ = batch["organ"].view(-1, *[1] * label.dim())
        made = anatomy.mean(dim=1, keepdim=True) / 2 + 0.1 * label[:, None] + organ
        if self.rim:
            made[:, :, 0] = made[:, :, -1] = -1
        return made

    def pictures(self, batch):
        return {}


@pytest.mark.parametrize(
    ("edges", "window"), [((20, 30), (8, 16)), ((10, 20, 30), (8, 8, 16)), ((6, 30, 20), (8, 16, 8))]
)
@pytest.mark.parametrize("at_once", [1, 3])
def test_what_depends_on_a_place_alone_is_the_same_in_windows(edges, window, at_once):
    method, data = Pointwise(), {**batch(channels=2, classes=4, edges=edges), "organ": torch.tensor([0, 1])}
    expected = method.translate(data)
    method.seen.clear()
    made = translate_in_windows(method, data, window, at_once=at_once)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)
    assert set(method.seen) == {window}


def test_the_borders_of_windows_hardly_count():
    method, data = Pointwise(rim=True), {**batch(edges=(40, 40)), "organ": torch.zeros(2)}
    made, expected = translate_in_windows(method, data, (16, 16), overlap=0.75), Pointwise().translate(data)
    inside = slice(12, -12)
    assert (made - expected)[:, :, inside, inside].abs().max() < 0.02
    tiled = translate_in_windows(method, data, (16, 16), overlap=0)
    assert (tiled - expected)[:, :, inside, inside].abs().max() > 0.5


@pytest.mark.parametrize("edges", [(64, 64), (8, 16, 16)])
def test_a_window_as_large_as_the_image_is_the_method_itself(edges):
    torch.manual_seed(0)
    method = Segmentor(SegmentorNetwork(3, width=1 / 16, edges=edges)).eval()
    tumour = torch.rand(2, 1, *edges) * 2 - 1
    found = translate_in_windows(method, {"tumour": tumour}, edges)
    assert found.dtype == torch.int64
    assert torch.equal(found, method.translate({"tumour": tumour}))


def test_segmentors_average_probabilities_over_windows():
    class Brightness(SegmentorNetwork):
        """Takes what is bright for class 1, in each window by itself: the brightest pixel of a window is certain."""

        def forward(self, image):
            return 20 * image - 10

    method = Segmentor(Brightness(2, width=1 / 16)).eval()
    image = torch.full((1, 1, 24, 24), -1.0)
    image[:, :, 8:16, 8:16] = 1
    found = translate_in_windows(method, {"tumour": image}, (16, 16))
    assert torch.equal(found[0] > 0, image[0, 0] > 0)


def test_the_way_back_is_windowed_with_the_label_of_the_tumour_image():
    class Back(Pointwise):
        def translate_back(self, batch):
            assert batch["tumour_label"].dtype == torch.int64
            return batch["tumour"] / 2 + 0.1 * batch["tumour_label"][:, None]

    data = batch(classes=4, edges=(10, 20, 30))
    data = {"tumour": data["tumour"], "tumour_label": data["label"]}
    made = translate_in_windows(Back(), data, (8, 8, 16), back=True)
    torch.testing.assert_close(made, data["tumour"] / 2 + 0.1 * data["tumour_label"][:, None], atol=1e-5, rtol=1e-5)
