"""What the machine is doing, under the names of MLflow's own system metrics so that its UI groups them."""

from __future__ import annotations

import sys

import psutil

MEGABYTE = 1e6


def system_sample() -> dict[str, float]:
    """CPU, memory, disk and network of this machine, this process's memory, and its GPUs' memory once it uses them.

    Percentages are 0 to 100 (the CPU's since the last call), sizes are in MB of 10^6 bytes; the network's count from
    the machine's start.
    """
    memory, disk, network = psutil.virtual_memory(), psutil.disk_usage("/"), psutil.net_io_counters()
    return {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / MEGABYTE,
        "system_memory_usage_percentage": memory.percent,
        "process_memory_usage_megabytes": psutil.Process().memory_info().rss / MEGABYTE,
        "disk_usage_percentage": disk.percent,
        "network_receive_megabytes": network.bytes_recv / MEGABYTE,
        "network_transmit_megabytes": network.bytes_sent / MEGABYTE,
    } | _gpu_sample()


def _gpu_sample() -> dict[str, float]:
    # Looking must not start CUDA (some hundred MB on every device) in a process that does not train.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    sample = {}
    for k in range(torch.cuda.device_count()):
        if torch.cuda.memory_reserved(k) > 0:
            free, total = torch.cuda.mem_get_info(k)
            sample[f"gpu_{k}_memory_usage_megabytes"] = (total - free) / MEGABYTE
            sample[f"gpu_{k}_memory_usage_percentage"] = 100 * (total - free) / total
            sample[f"gpu_{k}_memory_peak_megabytes"] = torch.cuda.max_memory_allocated(k) / MEGABYTE
    return sample
