"""One optimiser step of every player of a method, on one worker or many.

The loop knows players, not methods: a player is a set of networks with one optimiser. Each player's networks are
wrapped once, in a module whose forward computes the player's losses, so that DistributedDataParallel sees one
forward call per player and micro-batch and every parameter in it gets a gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from metgan_dist.errors import TrainingStopped
from metgan_dist.methods.method import Method, Player
from metgan_dist.training.sync_batch_norm import synchronise_batch_norm

Batch = dict[str, Tensor]

# The average remembers at most this part of the run so far (Karras et al., StyleGAN2-ADA): in a short run a long memory
# would still be full of the untrained network when it ends.
MEMORY = 0.05


class Turn(nn.Module):
    """A player's turn as a module: it owns the player's networks and its forward gives the player's loss terms."""

    def __init__(self, method: Method, player: Player) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({name: method.networks[name] for name in player.networks})
        self.name = player.name
        # In a tuple, so that the other players' networks do not become parameters of this one.
        self._method = (method,)

    def forward(self, batch: Batch, made: Batch | None) -> tuple[Batch, Batch]:
        """Losses and images of the turn; with None what is made ahead of all turns, and no losses."""
        if made is None:
            return {}, self._method[0].ahead(batch)
        return self._method[0].losses(self.name, batch, made)


class Stepper:
    """Owns a method's optimisers and distributed wrappers, and makes its steps.

    `autocast` is the dtype of mixed precision, or None for float32. With `world` > 1 a process group must exist; batch
    statistics then run over all ranks.
    """

    def __init__(
        self,
        method: Method,
        device: torch.device,
        *,
        world: int = 1,
        autocast: torch.dtype | None = None,
        compile_turns: bool = False,
        ema_half_life: int = 0,
    ) -> None:
        if world > 1:
            synchronise_batch_norm(method, device)
        self.method = method.to(device)
        self.device, self.world, self.autocast = device, world, autocast
        self.optimisers = {player.name: _optimiser(method, player) for player in method.players()}
        self.rates = {player.name: player.learning_rate for player in method.players()}
        self.turns: dict[str, nn.Module] = {}
        for player in method.players():
            turn: nn.Module = Turn(method, player)
            # Compiled within DistributedDataParallel's wrapper, whose hooks are then no part of the graph.
            if compile_turns:
                turn.compile()
            if world > 1:
                # Buffers agree already: batch statistics are joint, and spectral vectors start from the same seed.
                devices = [device.index] if device.type == "cuda" else None
                turn = DistributedDataParallel(turn, device_ids=devices, broadcast_buffers=False)
            self.turns[player.name] = turn
        self.ema_half_life = ema_half_life
        self.images = 0  # seen by all workers; the loop keeps it
        self.ema = _copy_of(method, method.inference) if ema_half_life else None

    def step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Every player moves once on the mean gradient of `batches`; returns the detached mean of each loss term.

        Raises TrainingStopped, on all ranks alike, when a player's gradient is not finite: no optimiser has moved then
        for this player.
        """
        self.method.train()
        made = self._ahead(batches)
        report: dict[str, Tensor] = {}
        for player in self.method.players():
            with _only_learning(self.method, player):
                for number, batch in enumerate(batches):
                    terms, images = self._backward(
                        player, batch, made[number], len(batches), number + 1 == len(batches)
                    )
                    made[number] = {**made[number], **images}
                    for term, value in terms.items():
                        share = value.detach().float() / len(batches)
                        report[f"{player.name}/{term}"] = report.get(f"{player.name}/{term}", 0) + share
                # Before the next player's turn, which thus plays against the player as it is now.
                self._move(player, report)
        seen = sum(len(next(iter(batch.values()))) for batch in batches) * self.world
        self.images += seen
        self._average(seen)
        return report

    def _ahead(self, batches: Sequence[Batch]) -> list[Batch]:
        """What is made before the first turn, for each batch."""
        if len(batches) > 1:
            # Each graph would be held until the last batch has been through the turns before.
            return [{} for _ in batches]
        last = self.method.players()[-1]
        turn = self.turns[last.name]
        # Not through DistributedDataParallel, which counts on a backward pass after each forward; the turn's own
        # forward comes later and tells it.
        turn = turn.module if isinstance(turn, DistributedDataParallel) else turn
        with _only_learning(self.method, last), self._precision():
            return [turn(batch, None)[1] for batch in batches]

    def _precision(self) -> AbstractContextManager[object]:
        return nullcontext() if self.autocast is None else torch.autocast(self.device.type, self.autocast)

    def _backward(self, player: Player, batch: Batch, made: Batch, parts: int, last: bool) -> tuple[Batch, Batch]:
        turn = self.turns[player.name]
        with ExitStack() as stack:
            if isinstance(turn, DistributedDataParallel) and not last:
                # Gradients are averaged over ranks once a step, with its last micro-batch; DDP decides so in the
                # forward pass.
                stack.enter_context(turn.no_sync())
            stack.enter_context(self._precision())
            terms, images = turn(batch, made)
        # Outside autocast: backward takes each operation's precision from the forward pass.
        loss: Tensor = sum(terms.values(), start=torch.zeros((), device=self.device))
        (loss / parts).backward()
        return terms, images

    def _move(self, player: Player, report: dict[str, Tensor]) -> None:
        optimiser = self.optimisers[player.name]
        gradients = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
        # Gradients are already averaged, so every rank sees the same norm and takes the same decision.
        if not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            bad = [name for name, value in report.items() if not torch.isfinite(value)]
            raise TrainingStopped(f"{player.name}: {', '.join(bad) or 'the gradient'} is not finite")
        optimiser.step()
        # None, not zeros: given zeros, Adam would still move by its momentum.
        optimiser.zero_grad(set_to_none=True)

    def _average(self, images: int) -> None:
        if self.ema is None:
            return
        keep = 0.5 ** (images / min(self.ema_half_life, MEMORY * self.images))
        with torch.no_grad():
            for name, average in self.ema.items():
                live = self.method.networks[name]
                for mine, current in zip(average.parameters(), live.parameters(), strict=True):
                    mine.lerp_(current, 1 - keep)
                # Running statistics are averages already, and the mean of two spectral vectors is not one.
                for kept, buffer in zip(average.buffers(), live.buffers(), strict=True):
                    kept.copy_(buffer)

    def set_rate(self, factor: float) -> None:
        """Scale every player's learning rate by `factor` (0..1) of its own."""
        for name, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = self.rates[name] * factor

    @contextmanager
    def inference(self) -> Iterator[Method]:
        """The method in eval mode, with the averaged networks in place of the live ones where there are any."""
        live = {name: self.method.networks[name] for name in self.ema or {}}
        for name, average in (self.ema or {}).items():
            self.method.networks[name] = average
        self.method.eval()
        try:
            with torch.no_grad():
                yield self.method
        finally:
            for name, network in live.items():
                self.method.networks[name] = network
            self.method.train()


def _optimiser(method: Method, player: Player) -> torch.optim.Optimizer:
    parameters = [p for name in player.networks for p in method.networks[name].parameters()]
    # Fused: one pass over the weights instead of a dozen, which is a fifth of a step of pix2pix.
    return torch.optim.Adam(parameters, lr=player.learning_rate, betas=player.betas, fused=True)


def _copy_of(method: Method, names: Sequence[str]) -> nn.ModuleDict:
    import copy

    copies = nn.ModuleDict({name: copy.deepcopy(method.networks[name]) for name in names})
    return copies.requires_grad_(False).eval()


@contextmanager
def _only_learning(method: Method, player: Player) -> Iterator[None]:
    """Gradients flow through every network, but stop in the parameters of all players but this one."""
    method.networks.requires_grad_(False)
    for name in player.networks:
        method.networks[name].requires_grad_(True)
    try:
        yield
    finally:
        method.networks.requires_grad_(False)
