"""SIGKILL of a worker, then of the whole job: the run goes on and ends with the weights of one never disturbed."""

import re

import pytest
from killing import LONG, killed_and_continued, same, weights
from user import run_here

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def fields(tmp_path_factory, ray_cluster, segmentors):
    """The run's fields, with tiles made once."""
    done = run_here("make_tiles", tmp_path_factory.mktemp("prepared"))
    assert done.code == 0, done.out + done.err
    return {**LONG, "data__path": done.result["artefacts"]["tiles"], **segmentors}


@pytest.fixture(scope="module")
def undisturbed(fields, tmp_path_factory):
    """The finished job when nothing is killed, and the weights that it ends with."""
    storage = tmp_path_factory.mktemp("undisturbed")
    done = run_here("train_metgan", storage, **fields)
    assert done.code == 0, done.out + done.err
    return done, weights(storage)


@pytest.fixture(scope="module")
def disturbed(fields, ray_cluster, tmp_path_factory):
    """(storage, output of the first start, finished second start): a worker dies in the first, then all of it does."""
    storage = tmp_path_factory.mktemp("disturbed")
    return storage, *killed_and_continued(storage, ray_cluster, "metgan", fields)


def test_a_worker_that_is_killed_is_replaced_and_goes_on_from_the_last_checkpoint(disturbed):
    _, said, _ = disturbed
    assert len(re.findall("metgan: continuing from", said)) == 1


def test_a_killed_job_started_again_ends_with_the_weights_of_an_undisturbed_one(disturbed, undisturbed):
    storage, _, again = disturbed
    assert again.code == 0, again.out + again.err
    assert "continuing run run" in again.out
    assert "metgan: continuing from" in again.out
    assert same(undisturbed[1], weights(storage))


def test_prepared_tiles_and_segmentor_are_taken_as_they_are(fields, undisturbed):
    done, _ = undisturbed
    made = done.result["artefacts"]
    assert made["tiles"] == fields["data__path"]
    assert (made["segmentor"], made["judge"]) == (fields["method__segmentor"], fields["method__judge"])
    assert "training a segmentor" not in done.out
