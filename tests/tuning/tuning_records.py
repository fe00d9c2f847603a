"""Trials as a ledger has them, without training any."""

from metgan_dist.tuning.ledger import TrialRecord

TOTAL = 900


def trial(number, mae, fidelity=0.5, images=TOTAL, outcome=None, alpha1=1.0, reason=""):
    """A trial of a report every 100 images, whose error falls to `mae`."""
    steps = range(100, images + 1, 100)
    rows = [
        {
            "images": reached,
            "began": 0,
            "role": f"trial-{number:03d}-abcdef",
            "seconds": reached / 10,
            "low_reports": 0,
            "validation/mae": mae + (images - reached) / 1000,
            "validation/label_fidelity": fidelity,
        }
        for reached in steps
    ]
    point = {"method.alpha1": alpha1, "method.alpha2": 10.0, "method.alpha3": 100.0, "method.alpha4": 10.0}
    outcome = outcome or ("whole" if images >= TOTAL else "stopped")
    return TrialRecord(f"trial-{number:03d}", point, rows, outcome, reason)
