"""What the training loop knows of a method: its players, their losses, its translation, its state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from torch import Tensor, nn

from metgan_dist.methods.image_pool import ImagePool

if TYPE_CHECKING:
    from metgan_dist.recipe import Recipe

if TYPE_CHECKING:
    from metgan_dist.recipe import Recipe

Batch = Mapping[str, Tensor]
Losses = tuple[dict[str, Tensor], dict[str, Tensor]]
Best = tuple[str, Literal["min", "max"]]


@dataclass(frozen=True)
class Player:
    """Networks that share one optimiser (Adam) and are updated together."""

    name: str
    networks: tuple[str, ...]
    learning_rate: float
    betas: tuple[float, float]


class Method(nn.Module, ABC):
    """A system of the papers: its networks and what one step does with them.

    A batch holds `anatomy` and `tumour` (N, 1, H, W) float in [-1, 1] and `label` (N, H, W) integers 0..classes-1.

    Attributes:
        networks: every network by name, frozen ones too; what a checkpoint holds.
        pools: image pools by name, one set per worker.
        frozen: names of networks that no player trains; always in eval mode and without parameter gradients, but
            gradients flow through them to their input.
        inference: names of the networks that `translate` needs.
        best: the validation score that picks the best checkpoint, and its direction.
    """

    inference: tuple[str, ...]
    best: Best

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        *,
        frozen: tuple[str, ...] = (),
        pools: Mapping[str, ImagePool] | None = None,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)
        self.pools = dict(pools or {})
        self.frozen = frozen
        for name in frozen:
            self.networks[name].requires_grad_(False)
        self.train()

    @classmethod
    @abstractmethod
    def from_recipe(cls, recipe: Recipe, segmentor: nn.Module | None = None) -> Self:
        """The method as a recipe describes it; `segmentor` is a trained one, for methods that need it."""

    def train(self, mode: bool = True) -> Self:
        """Switch all networks but the frozen ones, whose BatchNorm statistics would drift in training mode."""
        super().train(mode)
        for name in self.frozen:
            self.networks[name].eval()
        return self

    @abstractmethod
    def players(self) -> tuple[Player, ...]:
        """The players in the order in which they are updated within a step."""

    @abstractmethod
    def losses(self, player: str, batch: Batch, made: dict[str, Tensor]) -> Losses:
        """The loss terms of `player`, already weighted, whose sum it minimises; and images made on the way.

        `made` holds the (detached) images of the players before it in this step; the second result are those for the
        players after it.
        """

    @abstractmethod
    def translate(self, batch: Batch) -> Tensor:
        """What the method makes at inference from a batch, without gradients, in the present train or eval mode."""

    @abstractmethod
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Images (N, 1, H, W) in [-1, 1] for a grid, one column per entry, without gradients."""

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
