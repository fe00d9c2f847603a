"""Image-label pairs from a trained generator: a set of tiles with their origins, or a whole volume filled."""

import sys

from metgan_dist.job import run_job
from metgan_dist.synthesis.synthesis import synthesize

PURPOSE = "Generate a synthetic data set (or volume) by a trained generator; started again by name, it continues."

if __name__ == "__main__":
    sys.exit(run_job("synthesize.py", PURPOSE, synthesize))
