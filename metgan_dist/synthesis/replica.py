"""A copy of the generator on one device, and of the gate's segmentor beside it: composed tiles in, images out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from metgan_dist.methods.lesion_wgan import LesionWGAN
from metgan_dist.methods.pyramid import Pyramid, Seed
from metgan_dist.methods.segmentor import Segmentor
from metgan_dist.methods.singan import SinGAN
from metgan_dist.methods.windows import chances_in_windows, translate_in_windows
from metgan_dist.networks.resize import resize
from metgan_dist.networks.unet_256 import UNet256
from metgan_dist.synthesis.gate import label_dice
from metgan_dist.tiles.organs import organ_numbers
from metgan_dist.trained import load_method
from metgan_dist.training.precision import autocast_dtype, resolved

LEVELS = 65535
"""Images in [-1, 1] are stored as uint16: 0 is -1, LEVELS is 1."""


class Replica:
    """Generates images batch by batch.

    A batch's images follow from its tiles and seed: convolutions run by deterministic algorithms, and on a CPU by a
    fixed number of threads. Whoever wants the same images again gives the same batches.

    Args:
        model: checkpoint of the generator.
        segmentor: checkpoint of the gate's segmentor, if there is a gate.
        device: "cuda" or "cpu".
        precision: "fp32", "bf16" or "auto", which is bf16 on GPUs that have it.
        threads: on a CPU.
    """

    def __init__(
        self,
        model: str,
        segmentor: str | None,
        *,
        device: str = "cpu",
        precision: str = "auto",
        threads: int = 1,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.device, self._threads = torch.device(device), threads
        # What is made is kept: on a CPU it must not depend on which one, so auto is float32 on all of them.
        wanted = "fp32" if precision == "auto" and self.device.type == "cpu" else precision
        self.precision = resolved(wanted, self.device)
        # Timing picks another algorithm from run to run, and with it other last digits.
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
        method, recipe = load_method(model, options)
        self.method, self.classes = method.to(self.device), recipe.data.classes
        self.autocast = autocast_dtype(self.precision, self.device)
        self.segmentor = None if segmentor is None else load_method(segmentor, options)[0].to(self.device)
        self._one_at_a_time = threading.Lock()

    @classmethod
    def of_volumes(cls, model: str, *, device: str, precision: str, threads: int, options: dict[str, Any]) -> Self:
        """One that makes images of whole volumes, with the networks for that alone (see `keep`)."""
        replica = cls(model, None, device=device, precision=precision, threads=threads, options=options)
        replica.keep(replica.method.inference)
        return replica

    def keep(self, networks: Collection[str]) -> None:
        """Let go of the other networks, and of what tells a tile from the next: noise and statistics of its own.

        For volumes, whose tiles have to fit together.
        """
        self.method.statistics = "running"
        for name in [name for name in self.method.networks if name not in networks]:
            del self.method.networks[name]
        for module in self.method.modules():
            if isinstance(module, UNet256):
                module.stochastic = False

    @torch.no_grad()
    def generate(
        self,
        anatomy: np.ndarray,
        label: np.ndarray,
        seed: int,
        sampled: bool = False,
        organs: Sequence[str | None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images of a batch, and how well the segmentor finds their labels.

        Args:
            anatomy: float32 (N, C, [D,] H, W) in [-1, 1].
            label: uint8 (N, [D,] H, W).
            seed: of whatever the method draws (latents, dropout).
            sampled: draw a latent vector for each tile, instead of taking its mean.
            organs: of the tiles, for a method that was told of them in training.

        Returns:
            (N, C, [D,] H, W) uint16, see LEVELS; (N,) Dice, NaN without a segmentor.
        """
        with self._one_at_a_time:
            if self.device.type == "cpu":
                torch.set_num_threads(self._threads)
            batch = {
                "anatomy": torch.from_numpy(anatomy).to(self.device, non_blocking=True),
                "label": torch.from_numpy(label).to(self.device, non_blocking=True).long(),
            }
            if self.method.organs and organs is not None:
                batch["organ"] = torch.from_numpy(organ_numbers(organs, self.method.organs)).to(self.device)
            image = self._images(batch, seed, sampled).float().clamp(-1, 1)
            levels = ((image + 1) * (LEVELS / 2)).round()
            dice = np.full(len(anatomy), np.nan)
            if self.segmentor is not None:
                # What is judged is what is stored.
                found = self.segmentor.translate({**batch, "tumour": levels * (2 / LEVELS) - 1})
                dice = label_dice(found, batch["label"], self.classes)
            return levels.to(torch.int32).cpu().numpy().astype(np.uint16), dice

    @torch.no_grad()
    def translate(
        self,
        image: np.ndarray,
        label: np.ndarray | None,
        window: Sequence[int],
        *,
        back: bool,
        overlap: float,
        at_once: int,
        seed: int,
    ) -> np.ndarray:
        """Images as large as they are, translated window by window.

        Args:
            image: float32 (N, C, [D,] H, W) in [-1, 1], of the domain that is translated.
            label: uint8 (N, [D,] H, W), or None where there is none.
            window: edges of the tiles that the method was trained on.
            back: from the target to the source.
            overlap, at_once: of `translate_in_windows`.
            seed: of whatever the method draws.

        Returns float32 (N, C, [D,] H, W) in [-1, 1], of the other domain.
        """
        with self._one_at_a_time:
            if self.device.type == "cpu":
                torch.set_num_threads(self._threads)
            names = ("tumour", "tumour_label") if back else ("anatomy", "label")
            batch = {names[0]: torch.from_numpy(image).to(self.device)}
            if label is not None:
                batch[names[1]] = torch.from_numpy(label).to(self.device).long()
            torch.manual_seed(seed)
            with self._half():
                made = translate_in_windows(self.method, batch, window, overlap=overlap, at_once=at_once, back=back)
            return made.float().clamp(-1, 1).cpu().numpy()

    @torch.no_grad()
    def chances(self, image: np.ndarray, window: Sequence[int], *, overlap: float, at_once: int) -> np.ndarray:
        """What a segmentor finds in images as large as they are, window by window.

        image: float32 (N, C, [D,] H, W) in [-1, 1]; window: edges of the tiles that it was trained on; overlap,
        at_once: of `chances_in_windows`. Returns float32 (N, classes - 1, [D,] H, W), probabilities of the foreground.
        """
        assert isinstance(self.method, Segmentor), "only segmentors find labels"
        with self._one_at_a_time:
            if self.device.type == "cpu":
                torch.set_num_threads(self._threads)
            with self._half():
                given = torch.from_numpy(image).to(self.device)
                found = chances_in_windows(self.method, given, window, overlap=overlap, at_once=at_once)
            return found.float().cpu().numpy()

    @torch.no_grad()
    def draw(self, seeds: Sequence[Sequence[int]]) -> np.ndarray:
        """Masks (N, [D,] H, W) uint8 of a method that draws them, each from its own seed (`LesionWGAN.draw`)."""
        assert isinstance(self.method, LesionWGAN), "only mask GANs draw masks"
        with self._one_at_a_time:
            if self.device.type == "cpu":
                torch.set_num_threads(self._threads)
            with self._half():
                return self.method.draw(seeds).to(torch.uint8).cpu().numpy()

    @torch.no_grad()
    def draw_slices(self, label: np.ndarray, *, at_once: int, seed: int) -> np.ndarray:
        """The slices of one volume from their label maps, all by one latent vector where the method has any.

        label: (D, H, W) of classes; at_once: slices of one forward pass; seed: of whatever the method draws.
        Returns float32 (C, D, H, W) in [-1, 1].
        """
        with self._one_at_a_time:
            if self.device.type == "cpu":
                torch.set_num_threads(self._threads)
            torch.manual_seed(seed)
            latent = self.method.latents(1, torch.Generator().manual_seed(seed))
            made = []
            with self._half():
                for part in torch.from_numpy(label).long().split(at_once):
                    own = {} if latent is None else {"latent": latent.expand(len(part), -1).to(self.device)}
                    made.append(self.method.translate({"label": part.to(self.device), **own}).float())
            return torch.cat(made).clamp(-1, 1).movedim(1, 0).cpu().numpy()

    def harmonise(self, image: np.ndarray, start_scale: int, seed: Seed) -> np.ndarray:
        """An image (C, [D,] H, W) made anew from a scale on by a pyramid of one image (`Pyramid.harmonise`).

        float32 in [-1, 1], as is what is returned.
        """
        given = torch.from_numpy(image).to(self.device)
        return self._of_pyramid(lambda pyramid: pyramid.harmonise(given, start_scale, seed))

    def super_resolve(self, image: np.ndarray, times: float, seed: Seed) -> np.ndarray:
        """The same for an image with edges `times` as long (`Pyramid.super_resolve`)."""
        given = torch.from_numpy(image).to(self.device)
        return self._of_pyramid(lambda pyramid: pyramid.super_resolve(given, times, seed))

    def sample_image(self, seed: Seed) -> np.ndarray:
        """A random image (C, [D,] H, W), float32 in [-1, 1], of the learned one's kind and size."""
        return self._of_pyramid(
            lambda pyramid: resize(pyramid.sample([seed])[-1], pyramid.scales.shape)[0].clamp(-1, 1)
        )

    @torch.no_grad()
    def _of_pyramid(self, make: Callable[[Pyramid], Tensor]) -> np.ndarray:
        assert isinstance(self.method, SinGAN), "only what has learned one image has a pyramid"
        with self._one_at_a_time:
            if self.device.type == "cpu":
                torch.set_num_threads(self._threads)
            with self._half():
                made = make(self.method.pyramid)
            return made.float().cpu().numpy()

    def _half(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext()

    def _images(self, batch: dict[str, Tensor], seed: int, sampled: bool) -> Tensor:
        torch.manual_seed(seed)
        with self._half():
            if not sampled:
                return self.method.translate(batch)
            source = torch.Generator().manual_seed(seed)
            return self.method.sample(batch, 1, source)[:, 0]
