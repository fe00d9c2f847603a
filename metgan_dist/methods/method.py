"""What the training loop knows of a method: its players, their losses, its translation, its state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from metgan_dist.errors import UserError
from metgan_dist.methods.image_pool import ImagePool
from metgan_dist.networks.layout import lay_out

if TYPE_CHECKING:
    from metgan_dist.recipe import Recipe

Batch = Mapping[str, Tensor]
Losses = tuple[dict[str, Tensor], dict[str, Tensor]]
Best = tuple[str, Literal["min", "max"]]
Statistics = Literal["image", "running"]


@dataclass(frozen=True)
class Player:
    """Networks that share one optimiser (Adam) and are updated together.

    `moves`: so many in a step, each on losses of its own (new random draws) from the same batch. `every`: 1 for each
    step, k for every k-th step of the run alone. `compiled`: its losses may be compiled and run under
    DistributedDataParallel's hooks, which a loss with a gradient in it (a gradient penalty) may not.
    """

    name: str
    networks: tuple[str, ...]
    learning_rate: float
    betas: tuple[float, float]
    moves: int = 1
    every: int = 1
    compiled: bool = True

    @property
    def discriminates(self) -> bool:
        """Whether the player tells real images from generated ones."""
        return all(name.startswith("discriminator") for name in self.networks)


@dataclass(frozen=True)
class Stage:
    """Players that train together, for so long and with one schedule.

    `name`: what progress, checkpoints and recipes know it by. `players`: their names, in the order in which they move;
    none stands for all of the method in their own order. `epochs`: passes over the training tiles (of the larger
    domain); None for `training.epochs`. `decay_from`: the fraction of the stage after which the rates fall linearly to
    0 (1: they stay, 0: they fall from its beginning); None for `training.decay_from`. `falls_to`: the factor to which
    they fall there at once instead, to stay. `patience`: (loss, epochs), such as ("segmentors/real", 5): the stage ends
    when that loss's mean over an epoch has not been lower than before for so many epochs; ("segmentors", 5) watches the
    sum of that player's terms. `afresh`: the players' optimisers forget what they remember of earlier stages, which is
    for stages in which losses change: Adam divides by the size of the gradients that it has seen, so that after a stage
    of small ones its next steps would be many times the rate. Else they go on from stage to stage as they are.
    """

    name: str
    players: tuple[str, ...] = ()
    epochs: int | None = None
    decay_from: float | None = None
    falls_to: float | None = None
    patience: tuple[str, int] | None = None
    afresh: bool = False


WHOLE = Stage("")  # of a method that has no others


class Method(nn.Module, ABC):
    """A system of the papers: its networks and what one step does with them.

    A batch holds `anatomy` and `tumour` (N, C, [D,] H, W) float in [-1, 1], each with its own number of channels,
    `label` (N, [D,] H, W) integers 0..classes-1, and `organ` (N,) integers, where the tiles' organs are known. Methods
    that train `unpaired` also get batches whose anatomy and tumour images are of other places: `label` is then the
    anatomy's and `tumour_label` the tumour image's, either missing where its domain has no labels, and `tumour_tile`
    (N,) is there.

    Attributes:
        networks: every network by name, frozen ones too; what a checkpoint holds.
        pools: image pools by name, one set per worker.
        frozen: names of networks that no player trains; always in eval mode and without parameter gradients, but
            gradients flow through them to their input.
        unsaved: names of the frozen networks that checkpoints leave out, because their weights are published.
        inference: names of the networks that `translate` needs.
        dimensions: of the tiles that the method takes: 2 for projections and slices, 3 for crops.
        organs: what the numbers in `organ` stand for; none where the method takes those of the tiles at hand.
        statistics: what BatchNorm normalises by where images are made: each image's own, where the method offers that,
            or the running ones of the training.
        makes_ahead: whether `ahead` makes anything.
        begins_at: whether `begin_at` does anything.
        translates_back: whether there is `translate_back`.
        segments: roles whose images the method finds labels in itself (`class_scores`).
        task: what the method is for, and so how it is scored and shown (`metgan_dist/tasks/`).
        of_tissue: whether it draws all of an image from a label map that must name the tissue, too.
        judged: whether there is a judge, a segmentor, that looks for labels in what it makes.
        grows: whether stages add networks that inference needs, so that the last checkpoint alone has all of them.
    """

    inference: tuple[str, ...]
    dimensions: ClassVar[tuple[int, ...]] = (2,)
    task: ClassVar[str] = "paired"
    of_tissue: ClassVar[bool] = False
    judged: ClassVar[bool] = True
    grows: ClassVar[bool] = False
    organs: tuple[str, ...] = ()
    statistics: Statistics = "running"
    makes_ahead: bool = False
    begins_at: bool = False
    translates_back: bool = False
    segments: tuple[str, ...] = ()

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        *,
        frozen: tuple[str, ...] = (),
        unsaved: tuple[str, ...] = (),
        pools: Mapping[str, ImagePool] | None = None,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)
        self.pools = dict(pools or {})
        self.frozen = frozen
        self.unsaved = unsaved
        for name in frozen:
            self.networks[name].requires_grad_(False)
        self.train()

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As torch's, and weights laid out as the device takes them best."""
        moved = super().to(*args, **kwargs)
        lay_out(moved)
        return moved

    def saved(self) -> dict[str, nn.Module]:
        """The networks that checkpoints hold, by name."""
        return {name: network for name, network in self.networks.items() if name not in self.unsaved}

    @classmethod
    @abstractmethod
    def from_recipe(
        cls, recipe: Recipe, segmentor: nn.Module | None = None, perceptual: nn.Module | None = None
    ) -> Self:
        """The method as a recipe describes it.

        `segmentor` is a trained one and `perceptual` the VGG19 of the perceptual loss, for methods that need them.
        Without them a method can translate, but not train.
        """

    @classmethod
    @abstractmethod
    def criterion(cls, recipe: Recipe) -> Best:
        """The validation score that picks the checkpoint where the recipe names none, and its direction.

        `mae` for methods that are trained on pairs, `label_fidelity` for those that draw images from labels alone;
        `dice` for segmentors, `mask_distance` for those that draw masks. `cycle_mae` for unpaired ones, which may not
        look at pairs: it is reported, and the last checkpoint is kept (training/choice.py).
        """

    @classmethod
    def loss_weights(cls, recipe: Recipe) -> tuple[str, ...]:
        """The fields of `recipe.method` that weight the method's loss terms: what a sweep varies by default."""
        return ()

    @classmethod
    def needs(cls, recipe: Recipe) -> frozenset[str]:
        """What training needs that others made, by name; nothing by default.

        `segmentor`: one that is trained before the method, on the same tiles, or that `method.segmentor` names; and
        published weights as metgan_dist/weights.py calls them: `vgg19`, of the perceptual loss. All of it is seen to
        before the training begins, and given to `from_recipe`.
        """
        return frozenset()

    @classmethod
    def unpaired(cls, recipe: Recipe) -> bool:
        """Whether no loss compares an anatomy image with the tumour image of its place, so that two domains will do."""
        return False

    @classmethod
    def needs_label(cls, recipe: Recipe) -> bool:
        """Whether unpaired training needs labels of the anatomy images; where not, missing ones are background."""
        return True

    @classmethod
    def needs_target_label(cls, recipe: Recipe) -> bool:
        """Whether unpaired training needs labels of the tumour images, too, beside those for a segmentor or judge."""
        return False

    def train(self, mode: bool = True) -> Self:
        """Switch all networks but the frozen ones, whose BatchNorm statistics would drift in training mode."""
        super().train(mode)
        for name in self.frozen:
            self.networks[name].eval()
        return self

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """UserError, naming the field, for a recipe that the method cannot be built from; any will do by default."""

    @classmethod
    def divisor(cls, recipe: Recipe) -> int:
        """What every edge of a tile must be a multiple of; 1 where any fits, because the method pads inside."""
        return 1

    @classmethod
    def least_edge(cls, recipe: Recipe) -> int:
        """The shortest edge of a tile that its networks can take, in pixels."""
        return cls.divisor(recipe)

    @classmethod
    def fewest_values(cls, recipe: Recipe, edges: Sequence[int]) -> int | None:
        """How many values of a channel the coarsest BatchNorm that is trained has of one tile; None without BatchNorm.

        One value, of one tile alone, has no variance: a step needs two.
        """
        return None

    @classmethod
    def stages(cls, recipe: Recipe) -> tuple[Stage, ...]:
        """What a training goes through, in this order, each stage under its own name; by default one of all players.

        Recipes change a stage's length by its name (`training.stages`), leave it out, or take it from another run
        (`training.stages_from`).
        """
        return (WHOLE,)

    def enter(self, stage: Stage) -> None:
        """Make ready for a stage that begins: a method that grows adds networks, and changes what `players` gives.

        Called for each stage in turn, those that are left out or taken from another run too; again in this order when
        a run goes on, or is loaded, up to the stage that it was in. So it follows from the stage alone; weights that it
        draws depend on `training.seed` and the stage's name. A network that is there already stays the same object, and
        a player that gets other networks another name. What no player trains any more may join `frozen`.
        """

    def begin_at(self, intensities: Mapping[str, Sequence[float]]) -> None:
        """Start from images as bright as those of the training; asked before the first step, where `begins_at`.

        intensities: of `anatomy` and `tumour`, those that there are, the mean of each channel, in [-1, 1].
        """

    @abstractmethod
    def players(self) -> tuple[Player, ...]:
        """The players in the order in which they are updated within a step, whatever the stage."""

    def playing(self, stage: Stage) -> tuple[Player, ...]:
        """The players that move in a stage, in its order; ValueError where the method has none of a name."""
        players = {player.name: player for player in self.players()}
        if unknown := [name for name in stage.players if name not in players]:
            raise ValueError(f"stage {stage.name}: no player {unknown[0]}; there are {', '.join(players)}")
        return tuple(players[name] for name in stage.players or players)

    @abstractmethod
    def losses(self, player: str, batch: Batch, made: dict[str, Tensor]) -> Losses:
        """The loss terms of `player`, already weighted, whose sum it minimises; and images made on the way.

        `made` holds the (detached) images of the players before it in this step, which may be none: a player before it
        may not move in this step, or stage. The second result are those for the players after it; of several moves,
        those of the last.
        """

    def ahead(self, batch: Batch) -> dict[str, Tensor]:
        """Images that the last player makes and that players before it in a step need too, with its gradients' graph.

        Asked where `makes_ahead`. A step then has them in `made` from the beginning, so that they are made once. They
        may be missing from it: a step of several batches would have to hold all their graphs at once, and a player of
        several moves needs new ones.
        """
        return {}

    @abstractmethod
    def translate(self, batch: Batch) -> Tensor:
        """What the method makes at inference from a batch, without gradients, in the present train or eval mode."""

    def translate_back(self, batch: Batch) -> Tensor:
        """Images like the anatomy's (N, C, [D,] H, W) in [-1, 1] from `tumour`, and `tumour_label` where it matters.

        UserError where a method has one direction alone; ready in the present train or eval mode, without gradients.
        """
        raise UserError(
            f"synthesis.direction: back, but {type(self).__name__} translates in one direction alone; use a method "
            "with a cycle, such as cyclegan, sifa or cycle_shape, or translate forward"
        )

    def class_scores(self, volume: Tensor, modality: str) -> Tensor:
        """Of every class (N, classes, ...) what a method that `segments` finds in images; the highest is the label."""
        raise NotImplementedError

    def cycle(self, batch: Batch, output: Tensor) -> Tensor | None:
        """The anatomy (N, C, H, W) brought back from what `translate` made; None without an inverse."""
        return None

    def sample(self, batch: Batch, count: int, generator: torch.Generator | None = None) -> Tensor:
        """`count` different outputs for each label, (N, count, C, H, W); UserError where a method has only one."""
        raise UserError(
            f"synthesis.samples: {type(self).__name__} makes one image of a label; use spade_vae, sean_vae or "
            "spade_stroke"
        )

    def latents(self, count: int, generator: torch.Generator | None = None) -> Tensor | None:
        """Latent vectors (count, numbers) from the prior, one for each image that is to be made; None without any.

        `translate` takes them as `latent` of a batch. One for all slices of a volume makes them of one style.
        """
        return None

    @abstractmethod
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Images in [-1, 1] for a grid, one column per entry and channel, without gradients.

        `tumour`, `generated` and `real` have the channels of the tumour images, `anatomy` and `cycled` those of the
        anatomy, others one: (N, C, H, W).
        """

    def seed_pools(self, seed: int) -> None:
        """Restart the pools' random draws, each differently; workers pass different seeds."""
        for number, pool in enumerate(self.pools.values()):
            pool.seed(seed + 1_000_003 * number)

    def pool_state(self) -> dict[str, Any]:
        """State of all pools, of tensors and integers only, so that it loads with `weights_only=True`."""
        return {name: pool.state_dict() for name, pool in self.pools.items()}

    def load_pool_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `pool_state`; raises ValueError when the pools' names differ."""
        if set(state) != set(self.pools):
            raise ValueError(f"state of pools {sorted(state)} does not fit pools {sorted(self.pools)}")
        for name, pool in self.pools.items():
            pool.load_state_dict(state[name])
