"""A method without networks, for tests of what is done with whatever a method makes."""

from metgan_dist.methods.method import Method


class Networkless(Method):
    """Nothing to train; what it makes of a batch is a subclass's affair."""

    inference = ()

    def __init__(self):
        super().__init__({})

    @classmethod
    def criterion(cls, recipe):
        return ("mae", "min")

    @classmethod
    def from_recipe(cls, recipe, segmentor=None, perceptual=None):
        return cls()

    def players(self):
        return ()

    def losses(self, player, batch, made):
        return {}, {}


class Plain(Networkless):
    """Halves the anatomy, or as `labels` finds what is bright in the tumour image; notes the tiles that it saw."""

    def __init__(self, labels=False):
        super().__init__()
        self.labels, self.seen = labels, []
        self.task = "segmentation" if labels else "paired"

    def translate(self, batch):
        self.seen += batch["tile"].tolist()
        return (batch["tumour"][:, 0] > -0.2).long() if self.labels else batch["anatomy"] / 2

    def cycle(self, batch, output):
        return None if self.labels else output * 1.5

    def pictures(self, batch):
        return {name: batch[name] for name in ("anatomy", "tumour") if name in batch}
