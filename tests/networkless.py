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
