"""SinGAN: a pyramid of Wasserstein GANs that learns a single image (Shaham, Dekel, Michaeli, ICCV 2019); paper 3.

The image x_N is brought to N + 1 sizes, x_0 being the coarsest. Scale by scale, with the generators below as they are,

    x~_n = G_n(z_n, (x~_n-1) up) = (x~_n-1) up + tanh(convolutions(s_n z_n + (x~_n-1) up))

learns what x_n has that x~_n-1 lacks, against a critic D_n that judges patches of 11 x 11 pixels:

    critic      mean D(x~) - mean D(x) + 0.1 mean (|dD/dx at e x + (1 - e) x~| - 1)^2       e uniform in [0, 1]
    generator   -mean D(x~) + 10 mean (G_n(0, (x*_n-1) up) - x_n)^2

x* is the reconstruction: made of one fixed z* at the coarsest scale, and of no noise at finer ones. The noise of scale
n is multiplied by s_n = 0.1 RMSE of (x*_n-1) up against x_n, which says how much detail there is to add; s_0 = 1. As in
the authors' code the norm of the gradient runs over the channels of each pixel and the mean over pixels; e is one
number an image. Each player moves three times a step, against images that are drawn afresh for each move (there, the
generator's moves share one). A scale begins with the weights of the one below where it is as wide.

Each scale is a stage. Its amplitude is measured in its first step, and lies in the generator with its weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from metgan_dist.errors import UserError
from metgan_dist.methods.losses import full_precision, gradient_penalty
from metgan_dist.methods.method import Batch, Best, Losses, Method, Player, Stage
from metgan_dist.methods.pyramid import Pyramid, drawn
from metgan_dist.methods.scales import Scales
from metgan_dist.networks.initialise import initialise
from metgan_dist.networks.resize import resize
from metgan_dist.networks.singan import ScaleCritic, ScaleGenerator, width_at
from metgan_dist.recipe.methods.singan import SinGANRecipe

if TYPE_CHECKING:
    from metgan_dist.recipe import Recipe

BETAS = (0.5, 0.999)
DROP = 0.1  # of the rates, at `training.decay_from`: 1,600 of 2,000 steps in the authors' code
STAGE = "scale-"


@dataclass(frozen=True)
class SinGANWeights:
    """Of the reconstruction and the gradient penalty, and how strong the noise is."""

    reconstruction: float = 10.0
    penalty: float = 0.1
    noise: float = 0.1


class SinGAN(Method):
    """A generator and a critic for each scale that has begun, of which those of the last one are trained.

    Args:
        scales: the sizes of the image.
        channels: of the image.
        width: multiplier of all channel numbers.
        moves: of each player in a step.
        image: volume and plane of the tile that is learned, as the recipe names them.
    """

    dimensions: ClassVar[tuple[int, ...]] = (2, 3)
    task = "one_image"
    judged = False
    grows = True
    inference = ()

    def __init__(
        self,
        scales: Scales,
        *,
        channels: int = 1,
        width: float = 1.0,
        weights: SinGANWeights = SinGANWeights(),
        moves: int = 3,
        learning_rate: float = 5e-4,
        image: tuple[str | None, int | None] = (None, None),
    ) -> None:
        super().__init__({})
        self.scales, self.channels, self.width = scales, channels, width
        self.weights, self.moves, self.learning_rate = weights, moves, learning_rate
        self.image = image
        self.scale = -1  # none has begun

    @classmethod
    def from_recipe(
        cls, recipe: Recipe, segmentor: nn.Module | None = None, perceptual: nn.Module | None = None
    ) -> Self:
        """As the sections `method`, `data`, `tiles` and `training` describe it; without any scale."""
        method = SinGANRecipe.of(recipe.method)
        return cls(
            _scales(recipe),
            channels=recipe.data.channel_numbers[1],
            width=method.width,
            weights=SinGANWeights(method.reconstruction, method.penalty, method.noise),
            moves=method.moves,
            learning_rate=recipe.training.learning_rate,
            image=(method.volume, method.plane),
        )

    @classmethod
    def criterion(cls, recipe: Recipe) -> Best:
        """How near the reconstruction comes; it is reported, and the last checkpoint is kept."""
        return ("reconstruction_rmse", "min")

    @classmethod
    def unpaired(cls, recipe: Recipe) -> bool:
        """Always: it sees one image alone, of two domains one of the target."""
        return True

    @classmethod
    def needs_label(cls, recipe: Recipe) -> bool:
        """Never."""
        return False

    @classmethod
    def loss_weights(cls, recipe: Recipe) -> tuple[str, ...]:
        """Reconstruction and gradient penalty."""
        return ("reconstruction", "penalty")

    @classmethod
    def least_edge(cls, recipe: Recipe) -> int:
        """That of the coarsest scale."""
        return SinGANRecipe.of(recipe.method).coarsest

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """UserError for what does not go with a single image, or with scales that build on those below."""
        training = recipe.training
        _scales(recipe)
        if recipe.scaling.processes > 1:
            raise UserError(
                f"scaling.workers: {recipe.scaling.processes} workers have one image between them; singan trains on 1 "
                "(several models train side by side as rows of a study)"
            )
        if training.batch_size > 1 or training.accumulate > 1:
            field = "batch_size" if training.batch_size > 1 else "accumulate"
            raise UserError(f"training.{field}: a step of singan is its one image; set it to 1")
        if training.augment:
            raise UserError(
                "training.augment: the fixed noise stands for the image as it is, not for a flipped or turned one; set "
                "it to none"
            )
        if training.ema_half_life:
            raise UserError(
                "training.ema_half_life: each scale of singan builds on those below as they are, not on their average; "
                "set it to 0"
            )
        if training.start_from:
            raise UserError(
                "training.start_from: singan begins without any network; take another run's scales instead "
                f"(training.stages_from {STAGE}0=NAME,...)"
            )
        if left_out := next((name for name, epochs in training.stages.items() if not epochs), None):
            raise UserError(f"training.stages: {left_out} cannot be left out, for the scales above it build on it")

    @classmethod
    def stages(cls, recipe: Recipe) -> tuple[Stage, ...]:
        """One for each scale, as long as `training.epochs` says, with rates that drop to a tenth."""
        return tuple(Stage(f"{STAGE}{scale}", falls_to=DROP) for scale in range(len(_scales(recipe))))

    def enter(self, stage: Stage) -> None:
        """Begin the scale of a stage, with a new generator and critic; those below are frozen.

        Critics stay, too: another run may take a scale as it is (`training.stages_from`).
        """
        self.scale = int(stage.name.removeprefix(STAGE))
        width, dimensions = width_at(self.scale, self.width), len(self.scales.shape)
        fixed = None if self.scale else self.scales.edges[0]
        own = {
            "generator": initialise(ScaleGenerator(self.channels, width, dimensions, fixed)),
            "discriminator": initialise(ScaleCritic(self.channels, width, dimensions)),
        }
        as_wide = self.scale and width == width_at(self.scale - 1, self.width)
        for name, network in own.items():
            if as_wide:
                below = self.networks[f"{name}_{self.scale - 1}"].get_submodule("layers")
                network.get_submodule("layers").load_state_dict(below.state_dict())
            self.networks[f"{name}_{self.scale}"] = network
        self.frozen = tuple(f"{name}_{scale}" for scale in range(self.scale) for name in own)
        self.inference = tuple(f"generator_{scale}" for scale in range(self.scale + 1))
        for name in self.frozen:
            self.networks[name].requires_grad_(False)
        self.train()

    def players(self) -> tuple[Player, ...]:
        """The critic of the scale, then its generator; none before a scale has begun."""
        if self.scale < 0:
            return ()
        # A gradient penalty is differentiated twice, which compiled turns do not allow.
        return tuple(
            Player(
                f"{name}_{self.scale}",
                (f"{network}_{self.scale}",),
                self.learning_rate,
                BETAS,
                moves=self.moves,
                compiled=False,
            )
            for name, network in (("critic", "discriminator"), ("generator", "generator"))
        )

    @property
    def generators(self) -> list[ScaleGenerator]:
        """Those of the scales that have begun, coarsest first."""
        return [cast(ScaleGenerator, self.networks[name]) for name in self.inference]

    @property
    def pyramid(self) -> Pyramid:
        """What images are made with."""
        return Pyramid(self.generators, self.scales, self.channels)

    def losses(self, player: str, batch: Batch, made: dict[str, Tensor]) -> Losses:
        """`distance` and `penalty` of the critic, `adversarial` and `reconstruction` of the generator.

        Draws noise, and where the penalty is taken, from torch's global random state. Raises UserError for an image of
        another size than the pyramid's.
        """
        if (edges := tuple(batch["tumour"].shape[2:])) != self.scales.shape:
            given, wanted = (" x ".join(map(str, own)) for own in (edges, self.scales.shape))
            raise UserError(f"tiles.size: tiles of {given} pixels, but the pyramid is laid out for {wanted}; cut these")
        real = self.pyramid.real(batch["tumour"], self.scale)
        self._measure(real)
        if player.startswith("critic"):
            return self._critic_losses(real), {}
        return self._generator_losses(real), {}

    def _critic_losses(self, real: Tensor) -> dict[str, Tensor]:
        critic = self.networks[f"discriminator_{self.scale}"]
        with torch.no_grad():
            fake = self._fake(len(real))
        # One after the other: each image is normalised by its own statistics.
        of_real, of_fake = (full_precision(critic(image)).mean() for image in (real, fake))
        terms = {"distance": of_fake - of_real}
        if self.weights.penalty:
            mix = torch.rand(len(real), *(1,) * (real.dim() - 1), dtype=real.dtype, device=real.device)
            terms["penalty"] = self.weights.penalty * gradient_penalty(critic, real, fake, mix, per_pixel=True)
        return terms

    def _generator_losses(self, real: Tensor) -> dict[str, Tensor]:
        critic, generator = self.networks[f"discriminator_{self.scale}"], self.generators[-1]
        terms = {"adversarial": -full_precision(critic(self._fake(len(real)))).mean()}
        if self.weights.reconstruction:
            image = full_precision(generator(self._reconstructed_below(), generator.fixed))
            terms["reconstruction"] = self.weights.reconstruction * (image - real).square().mean()
        return terms

    def _fake(self, count: int) -> Tensor:
        """Images of the scale, drawn; with gradients in its own generator alone."""
        coarser = self.pyramid.below(self.scale, count, drawn)
        return self.generators[-1](coarser, drawn(self.scale, coarser))

    def _reconstructed_below(self) -> Tensor:
        """What the scales below make of z*, brought to the size of the scale (1, C, ...)."""
        pyramid = self.pyramid
        return pyramid.below(self.scale, 1, pyramid.fixed)

    @torch.no_grad()
    def _measure(self, real: Tensor) -> None:
        """The noise amplitude of the scale, where it has none yet."""
        generator = self.generators[-1]
        if not generator.amplitude:
            error = (self._reconstructed_below() - real).square().mean().sqrt()
            generator.amplitude.copy_(self.weights.noise * error)

    @torch.no_grad()
    def translate(self, batch: Batch) -> Tensor:
        """A random image (N, C, ...) for each tile of a batch, from the tile's number; of its pixels it sees nothing.

        As large as the tiles, whatever the scale that was reached. Without `tile`, from the place in the batch.
        """
        count = len(next(iter(batch.values())))
        seeds = batch["tile"].tolist() if "tile" in batch else range(count)
        return resize(self.pyramid.sample(list(seeds))[-1], self.scales.shape).clamp(-1, 1)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The columns generated, reconstructed, and real: the image that is learned."""
        reconstructed = resize(self.pyramid.reconstruct()[-1], self.scales.shape).clamp(-1, 1)
        return {
            "generated": self.translate(batch),
            "reconstructed": reconstructed.expand_as(batch["tumour"]),
            "real": batch["tumour"],
        }


def _scales(recipe: Recipe) -> Scales:
    """The pyramid of a recipe's tiles; UserError for tiles that it cannot be laid out for."""
    method = SinGANRecipe.of(recipe.method)
    try:
        return Scales.of(recipe.tiles.shape, method.coarsest, method.finest, method.factor)
    except ValueError as error:
        raise UserError(f"tiles.size: {error}; use larger tiles, or set method.coarsest") from error
