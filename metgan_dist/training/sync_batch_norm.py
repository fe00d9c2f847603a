"""Batch statistics over all workers, on GPUs and on CPUs.

torch's SyncBatchNorm refuses CPU tensors, and a GAN with one small tile per worker needs joint statistics there
too; on CUDA torch's own, fused version is used.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class CpuSyncBatchNorm(_BatchNorm):
    """BatchNorm over the joint batch of all ranks, for any number of axes, differentiable through the statistics."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least (N, C), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        if input.dtype in (torch.bfloat16, torch.float16):  # under autocast; statistics need the digits
            return self.forward(input.float()).to(input.dtype)
        axes = [0, *range(2, input.dim())]
        mean, variance, total = _joint_moments(input, axes)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                momentum = 0.1 if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                # Unbiased in the running statistics, biased where it normalises: as torch has it.
                self.running_var.lerp_((variance * total / (total - 1)).to(self.running_var.dtype), momentum)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
        shape = [1, -1, *[1] * (input.dim() - 2)]
        output = (input - mean.view(shape)) * torch.rsqrt(variance.view(shape) + self.eps)
        if self.affine:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        return output


def _joint_moments(input: Tensor, axes: list[int]) -> tuple[Tensor, Tensor, float]:
    """Mean and biased variance per channel over every rank's batch, and the number of values behind them.

    One collective a layer: every rank puts count, mean and variance into its own row of a table of zeros, and the sum
    of the tables is all rows. They are combined as Chan et al. do, since sums of squares would lose their digits.
    """
    variance, mean = torch.var_mean(input, axes, correction=0)
    count = mean.new_full((1,), input.numel() / input.shape[1])
    row = torch.cat([count, mean, variance])
    place = torch.nn.functional.one_hot(torch.tensor(dist.get_rank()), dist.get_world_size()).to(row)
    # The collective that is differentiable: a rank's output depends on every rank's input.
    table = dist_functional.all_reduce(place[:, None] * row)
    counts, means, variances = torch.split(table, [1, len(mean), len(mean)], dim=1)
    total = counts.sum()
    joint = (counts * means).sum(0) / total
    return joint, (counts * (variances + (means - joint).square())).sum(0) / total, float(total)


def synchronise_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace every BatchNorm in `module` by one over all ranks; parameters and buffers are kept, not copied."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    if isinstance(module, _BatchNorm):
        return module if isinstance(module, CpuSyncBatchNorm) else _converted(module)
    for name, child in module.named_children():
        setattr(module, name, synchronise_batch_norm(child, device))
    return module


def _converted(norm: _BatchNorm) -> CpuSyncBatchNorm:
    twin = CpuSyncBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    twin.train(norm.training)
    for name, parameter in norm._parameters.items():
        twin._parameters[name] = parameter
    for name, buffer in norm._buffers.items():
        twin._buffers[name] = buffer
    return twin
