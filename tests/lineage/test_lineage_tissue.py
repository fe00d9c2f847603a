"""Which synthetic tiles were made from tissue that others show, by their anatomies and by their labels."""

import numpy as np
import pytest

from metgan_dist.errors import UserError
from metgan_dist.lineage import Sources, Tissue


def test_synthetic_tiles_touch_what_their_anatomy_or_any_of_their_labels_shows(study):
    made = study.synthetic("other", study.real, study.weights, study.ids["gan"], rows=range(8), labels=(20, 33))
    sources = Sources(made)
    # Rows are four tiles for each of four slices of each volume.
    assert np.flatnonzero(sources.touching(Tissue.of(study.real, np.array([3, 6, 9])))).tolist() == [3, 6]
    assert sources.touching(Tissue.of(study.real, np.array([33]))).all()
    assert not sources.touching(Tissue.of(study.real, np.array([21, 34]))).any()
    shifted = Tissue.of(study.real, np.array([0]))
    shifted = Tissue(shifted.rows.assign(y0=8, y1=24), shifted.volumes)
    assert np.flatnonzero(sources.touching(shifted)).tolist() == [0, 2]


def test_drawn_labels_are_from_nowhere(study):
    made = study.synthetic("drawn", study.real, study.weights, study.ids["gan"], rows=range(4), labels=())
    assert not Sources(made).touching(Tissue.of(study.real, np.arange(4, 64))).any()


def test_labels_of_tiles_that_were_made_again_are_refused(study, edit):
    edit(study.real, lambda manifest: manifest.update(fingerprint="another"))
    with pytest.raises(UserError, match=f"^{study.real.uri}: not the tiles that gave labels to {study.made.uri}"):
        Sources(study.made)
