"""Methods of tests alone, which no file of the package knows: in stages, growing, with a gradient penalty."""

import torch
from torch import nn

from metgan_dist import methods
from metgan_dist.methods.method import Method, Player, Stage
from metgan_dist.recipe import MethodRecipe
from metgan_dist.recipe import methods as sections

BETAS = (0.5, 0.9)


def register(patch, **toys):
    """Let recipes name toys as methods, with the fields that all have: `register(monkeypatch, staged=Staged)`."""
    patch.setattr(methods, "METHODS", {**methods.METHODS, **toys})
    patch.setattr(sections, "SECTIONS", {**sections.SECTIONS, **dict.fromkeys(toys, MethodRecipe)})


def convolution(dimensions=2):
    return (nn.Conv2d, nn.Conv3d)[dimensions - 2](1, 1, 3, padding=1)


class Toy(Method):
    """What all toys have in common: an image of the anatomy."""

    inference = ("generator",)

    @classmethod
    def criterion(cls, recipe):
        return ("mae", "min")

    def translate(self, batch):
        with torch.no_grad():
            return self.networks["generator"](batch["anatomy"]).clamp(-1, 1)

    def pictures(self, batch):
        return {"anatomy": batch["anatomy"], "generated": self.translate(batch)}


class Staged(Toy):
    """A segmentor first, then a generator with it, which moves in every third step alone; on images or volumes."""

    @classmethod
    def from_recipe(cls, recipe, segmentor=None, perceptual=None):
        width = max(1, round(recipe.method.width))
        dimensions = len(recipe.tiles.shape)
        finder = [convolution(dimensions) for _ in range(width)]
        return cls({"generator": convolution(dimensions), "finder": nn.Sequential(*finder)})

    @classmethod
    def stages(cls, recipe):
        return (
            Stage("pretrain", ("segmentors",), epochs=1, decay_from=1.0, patience=("segmentors/real", 2)),
            Stage("joint", ("generators", "segmentors"), decay_from=0.0),
        )

    def players(self):
        return (
            Player("segmentors", ("finder",), 1e-2, BETAS),
            Player("generators", ("generator",), 1e-2, BETAS, every=3),
        )

    def losses(self, player, batch, made):
        if player == "generators":
            image = self.networks["generator"](batch["anatomy"] + 0.1 * torch.randn_like(batch["anatomy"]))
            pair = (image - batch["tumour"]).abs().mean()
            return {"pair": pair, "shape": self._error(image, batch)}, {"tumour": image.detach()}
        terms = {"real": self._error(batch["tumour"], batch)}
        if "tumour" in made:
            terms["made"] = self._error(made["tumour"], batch)
        return terms, {}

    def _error(self, image, batch):
        return (self.networks["finder"](image) - batch["label"][:, None]).square().mean()


class Growing(Toy):
    """A network more in each stage, that alone learns there, on what those before it make."""

    inference = ()

    @classmethod
    def from_recipe(cls, recipe, segmentor=None, perceptual=None):
        return cls({})

    @classmethod
    def stages(cls, recipe):
        return tuple(Stage(f"scale-{number}") for number in range(3))

    def enter(self, stage):
        name = stage.name.replace("-", "_")
        self.networks[name] = convolution()
        self.frozen = self.inference
        self.inference = (*self.inference, name)

    def players(self):
        return tuple(Player(name, (name,), 1e-2, BETAS) for name in self.inference[-1:])

    def losses(self, player, batch, made):
        return {"pair": (self._image(batch) - batch["tumour"]).square().mean()}, {}

    def _image(self, batch):
        image = batch["anatomy"]
        for name in self.inference:
            image = image + self.networks[name](image)
        return image

    def translate(self, batch):
        with torch.no_grad():
            return self._image(batch).clamp(-1, 1)


class Critic(nn.Module):
    """w . tanh(W x) of images x of 4 x 4, whose derivatives are short enough to be written down."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(16, 5, bias=False), nn.Linear(5, 1, bias=False)

    def forward(self, image):
        return self.outer(self.inner(image.flatten(1)).tanh())[:, 0]


class Wasserstein(Toy):
    """Five moves of the critic, with a gradient penalty of weight 10, to one of the generator.

    The penalty is taken between a real and a generated image, at a place that the batch may give (`mix`) and that is
    drawn otherwise.
    """

    MOVES, PENALTY = 5, 10.0

    @classmethod
    def from_recipe(cls, recipe, segmentor=None, perceptual=None):
        return cls({"generator": convolution(), "critic": Critic()})

    def players(self):
        return (
            Player("critic", ("critic",), 1e-3, BETAS, moves=self.MOVES, compiled=False),
            Player("generator", ("generator",), 1e-3, BETAS),
        )

    def losses(self, player, batch, made):
        critic = self.networks["critic"]
        fake = self.networks["generator"](batch["anatomy"])
        if player == "generator":
            return {"adversarial": -critic(fake).mean()}, {"tumour": fake.detach()}
        real, fake = batch["tumour"], fake.detach()
        mix = batch["mix"] if "mix" in batch else torch.rand(len(real), 1, 1, 1, dtype=real.dtype)
        between = (mix * real + (1 - mix) * fake).requires_grad_(True)
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        return {"distance": critic(fake).mean() - critic(real).mean(), "penalty": self.PENALTY * penalty}, {}


def image(position, edges=(4, 4), dtype=torch.float32):
    """The batch of one at a position of the endless stream."""
    random = torch.Generator().manual_seed(position)
    anatomy, tumour = (torch.rand(1, 1, *edges, generator=random, dtype=dtype) * 2 - 1 for _ in range(2))
    return {"anatomy": anatomy, "tumour": tumour, "label": (tumour[:, 0] > 0.5).long()}
