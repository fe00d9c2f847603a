"""The names under which the channels of a role are cut and stored; loads no format, for those who only read tiles."""

from __future__ import annotations

Layer = str
"""One channel of a role, as it is cut and stored; see `layers_of`."""


def layers_of(role: str, channels: int) -> tuple[Layer, ...]:
    """The layers of a role of so many channels: the role's own name, then `anatomy_1`, `anatomy_2` and so on."""
    return tuple(f"{role}_{number}" if number else role for number in range(channels))
