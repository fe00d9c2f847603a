"""Label to image: images are drawn from labels alone, and scored as translations of the anatomy of their places are.

The anatomy is shown, and gives the trivial predictions; the methods do not see it, so no pixel of the background can be
right, and label fidelity is what chooses a checkpoint (`Method.criterion`).
"""

from __future__ import annotations

from metgan_dist.tasks.paired import Paired


class LabelToImage(Paired):
    """As paired translation: both stand in one table."""

    name = "label_to_image"
