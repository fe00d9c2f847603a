"""Where every tile, checkpoint and score comes from: chains of runs, data sets and volumes, each link verified.

MLflow knows which run used and generated which data set; manifests know which checkpoint, tiles and volumes a set was
made from; run folders know their MLflow run. Together they lead from a score back to the volumes, and whatever does not
agree with its recorded SHA-256, or is gone, is a broken link.
"""

from metgan_dist.lineage.tissue import Sources, Tissue
from metgan_dist.lineage.untouched import check_start, check_starts, check_untouched

__all__ = ["Sources", "Tissue", "check_start", "check_starts", "check_untouched"]
