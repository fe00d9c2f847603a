"""A chain as a tree: each link with what it was made from, as text for a person or a tree for a program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

INDENT = "  "


@dataclass
class Link:
    """One run, tile set, checkpoint or volume of a chain.

    Attributes:
        role: what it is to the link above it, e.g. "training", "generator".
        kind: what it is, e.g. "run", "synthetic tiles".
        name: its name or URI.
        facts: what is recorded of it, in the order of reading.
        sources: what it was made from.
        again: it stands elsewhere in the chain with its facts and sources.
        broken: why the chain cannot be followed here, in one line.
    """

    role: str
    kind: str
    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    sources: list[Link] = field(default_factory=list)
    again: bool = False
    broken: str | None = None

    def breaks(self) -> Iterator[str]:
        """Why this link and those that it was made from are broken, each reason once, from the top."""
        seen = set()
        for link in self._all():
            if link.broken is not None and link.broken not in seen:
                seen.add(link.broken)
                yield link.broken

    def _all(self) -> Iterator[Link]:
        yield self
        for source in self.sources:
            yield from source._all()

    def tree(self) -> dict[str, Any]:
        """As nested dictionaries."""
        return asdict(self)

    def lines(self, depth: int = 0) -> Iterator[str]:
        """As indented text, facts before sources."""
        here = INDENT * depth
        role = f"{self.role}: " if self.role else ""
        yield f"{here}{role}{self.kind} {self.name}" + (" (as above)" if self.again else "")
        for name, value in self.facts.items():
            yield from _fact(name, value, depth + 1)
        for source in self.sources:
            yield from source.lines(depth + 1)
        if self.broken is not None:
            yield f"{here}{INDENT}BROKEN: {self.broken}"


def _fact(name: str, value: Any, depth: int) -> Iterator[str]:
    here = INDENT * depth
    if value in (None, "", [], {}):
        return
    if not isinstance(value, dict):
        yield f"{here}{name}: {_words(value)}"
    elif any(", " in str(part) for part in value.values()):
        yield f"{here}{name}:"
        for key, part in value.items():
            yield from _fact(key, part, depth + 1)
    else:
        yield f"{here}{name}: {', '.join(f'{key} {_words(part)}' for key, part in value.items() if part is not None)}"


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
