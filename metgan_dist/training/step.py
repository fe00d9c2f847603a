"""One optimiser step of every player of a stage, on one worker or many.

The loop knows players, not methods: a player is a set of networks with one optimiser. Each player's networks are
wrapped once, in a module whose forward computes the player's losses, so that DistributedDataParallel sees one
forward call per player, move and micro-batch and every parameter in it gets a gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from metgan_dist.errors import TrainingStopped
from metgan_dist.methods.method import Method, Player, Stage
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
    statistics then run over all ranks where `joint_batch_norm`, else each rank's over its own tiles, and the running
    ones are averaged over ranks after each step. Ranks exchange gradients as they are, or with `bf16_gradients`
    rounded; with `gradient_views` without a copy of them. All players of the method move, until `begin` says which.

    Attributes:
        playing: the players that move, in their order.
        steps: of the run so far; the loop puts them back where a run goes on.
        averaged: images that each averaged network has learned from, by name.
    """

    def __init__(
        self,
        method: Method,
        device: torch.device,
        *,
        world: int = 1,
        joint_batch_norm: bool = True,
        bf16_gradients: bool = False,
        gradient_views: bool = False,
        autocast: torch.dtype | None = None,
        compile_turns: bool = False,
        ema_half_life: int = 0,
    ) -> None:
        self.method, self.device, self.world, self.autocast = method, device, world, autocast
        self._joint = joint_batch_norm
        self._bf16, self._views = bf16_gradients, gradient_views
        self._compile = compile_turns
        self._known: set[str] = set()  # networks
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        self.rates: dict[str, float] = {}
        self.turns: dict[str, nn.Module] = {}
        self.ema_half_life = ema_half_life
        self.ema = nn.ModuleDict() if ema_half_life else None
        self.averaged: dict[str, int] = {}
        self.steps = 0
        self._make_ready()
        self.playing = method.players()

    def begin(self, stage: Stage) -> None:
        """Let the players of `stage`, which the method has entered, move from here on; others keep what they have."""
        self._make_ready()
        self.playing = self.method.playing(stage)
        if stage.afresh:
            for player in self.playing:
                self.optimisers[player.name] = _optimiser(self.method, player)

    def _make_ready(self) -> None:
        """Optimisers and turns for the players that have none, averages for new networks; those that are gone go."""
        networks, players = self.method.networks, self.method.players()
        for name in [name for name in networks if name not in self._known]:
            if self.world > 1 and self._joint:
                networks[name] = synchronise_batch_norm(networks[name], self.device)
            self._known.add(name)
        self.method.to(self.device)
        for of_players in (self.optimisers, self.rates, self.turns):
            for gone in of_players.keys() - {player.name for player in players}:
                del of_players[gone]
        for player in players:
            if player.name not in self.turns:
                self.optimisers[player.name] = _optimiser(self.method, player)
                self.rates[player.name] = player.learning_rate
                self.turns[player.name] = self._turn(player)
        if self.ema is not None:
            new = [name for name in self.method.inference if name not in self.ema]
            self.ema.update(_copies_of(self.method, new))
            self.averaged |= dict.fromkeys(new, 0)

    def _turn(self, player: Player) -> nn.Module:
        # Between steps no network learns, and DistributedDataParallel would leave out what does not.
        turn = Turn(self.method, player).requires_grad_(True)
        if not player.compiled:
            return turn
        # Compiled within DistributedDataParallel's wrapper, whose hooks are then no part of the graph.
        if self._compile:
            turn.compile()
        if self.world == 1:
            return turn
        # Buffers agree already: batch statistics are joint, or averaged after the step, and spectral vectors start from
        # the same seed.
        devices = [self.device.index] if self.device.type == "cuda" else None
        wrapped = DistributedDataParallel(
            turn, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=self._views
        )
        if self._bf16:
            wrapped.register_comm_hook(None, bf16_compress_hook)
        return wrapped

    def step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Every player whose step it is moves, each time on the mean gradient of `batches`.

        Returns the detached mean of each loss term over batches and moves. Raises TrainingStopped, on all ranks alike,
        when a player's gradient is not finite: no optimiser has moved then for this player.
        """
        self.method.train()
        made = self._ahead(batches)
        report: dict[str, Tensor] = {}
        for player in self.playing:
            if self._moves(player):
                images = self._play(player, batches, made, report)
                made = [{**before, **new} for before, new in zip(made, images, strict=True)]
        if self.world > 1 and not self._joint:
            _average_over_ranks(list(_running_statistics(self.method)), self.world)
        self._average(sum(len(next(iter(batch.values()))) for batch in batches) * self.world)
        self.steps += 1
        return report

    def _moves(self, player: Player) -> bool:
        """Whether the player moves in the step at hand."""
        return (self.steps + 1) % player.every == 0

    def _play(
        self, player: Player, batches: Sequence[Batch], made: Sequence[Batch], report: dict[str, Tensor]
    ) -> list[Batch]:
        """All moves of a player in a step, its mean losses into `report`; what it made of each batch in the last."""
        images_of: list[Batch] = []
        parts = len(batches)
        with _only_learning(self.method, player):
            for _ in range(player.moves):
                images_of = []
                for number, batch in enumerate(batches):
                    terms, images = self._backward(player, batch, made[number], parts, number + 1 == parts)
                    images_of.append(images)
                    for term, value in terms.items():
                        share = value.detach().float() / (parts * player.moves)
                        report[f"{player.name}/{term}"] = report.get(f"{player.name}/{term}", 0) + share
                # Before the next player's turn, which thus plays against the player as it is now.
                self._move(player, report)
        return images_of

    def _ahead(self, batches: Sequence[Batch]) -> list[Batch]:
        """What is made before the first turn, for each batch."""
        last = self.playing[-1]
        # With several batches each graph would be held until the last one has been through the turns before.
        if not self.method.makes_ahead or len(batches) > 1 or last.moves > 1 or not self._moves(last):
            return [{} for _ in batches]
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
        if self.world > 1 and not isinstance(self.turns[player.name], DistributedDataParallel):
            _average_over_ranks(gradients, self.world, torch.bfloat16 if self._bf16 else None)
        # Gradients are already averaged, so every rank sees the same norm and takes the same decision.
        if not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            bad = [name for name, value in report.items() if not torch.isfinite(value)]
            raise TrainingStopped(f"{player.name}: {', '.join(bad) or 'the gradient'} is not finite")
        optimiser.step()
        # None, not zeros: given zeros, Adam would still move by its momentum.
        optimiser.zero_grad(set_to_none=True)

    def _average(self, images: int) -> None:
        """Let the averages of networks that learn forget the past, by so many images."""
        learning = {name for player in self.playing for name in player.networks}
        for name, average in (self.ema or {}).items():
            if name not in learning:
                continue
            self.averaged[name] += images
            keep = 0.5 ** (images / min(self.ema_half_life, MEMORY * self.averaged[name]))
            live = self.method.networks[name]
            with torch.no_grad():
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


def _average_over_ranks(tensors: Sequence[Tensor], world: int, sent_as: torch.dtype | None = None) -> None:
    """Their means over ranks, in place and in one collective; all ranks have the same tensors, which may be none.

    Of gradients it is what DistributedDataParallel does for the players that it wraps, rounded to `sent_as` too.
    """
    if not tensors:
        return
    joint = torch.cat([tensor.flatten() for tensor in tensors])
    # Divided first where it is rounded, as torch's own hook does: a sum over many ranks has larger rounding errors.
    joint = joint if sent_as is None else (joint / world).to(sent_as)
    dist.all_reduce(joint)
    for tensor, part in zip(tensors, joint.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor) / world if sent_as is None else part.view_as(tensor))


def _running_statistics(method: Method) -> Iterator[Tensor]:
    """Running means and variances of all BatchNorms that move; a frozen network is in eval mode."""
    for module in method.networks.modules():
        if isinstance(module, _BatchNorm) and module.training:
            yield from (value for value in (module.running_mean, module.running_var) if value is not None)


def _copies_of(method: Method, names: Sequence[str]) -> dict[str, nn.Module]:
    return {name: copy.deepcopy(method.networks[name]).requires_grad_(False).eval() for name in names}


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
