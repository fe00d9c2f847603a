"""What all parts of a recipe have in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def comma_list(value: Any) -> Any:
    """Let ``--tiles.views z,y`` and ``--tiles.size 86,112,112`` stand for lists on a command line."""
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int | float) else value


# The type of errors whose text is the whole of what is to be said of a field.
TOLD = "told"
_SIGNS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
_Size = Annotated[float, Field(gt=0, allow_inf_nan=False)]
VoxelSize = Annotated[tuple[_Size, _Size, _Size], BeforeValidator(comma_list)]
"""Along z, y, x; three positive numbers."""


Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""Of random numbers: what numpy, torch and MLflow all take."""


class Section(BaseModel):
    """A part of the recipe; unknown fields are mistakes, as are NaN and infinite numbers, and nothing changes after
    validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Put each number's range into its description, so that ``--help`` shows it."""
        for field in cls.model_fields.values():
            limits = [
                f"{sign} {getattr(rule, name)}"
                for rule in field.metadata
                for name, sign in _SIGNS
                if hasattr(rule, name)
            ]
            if limits and field.description and not field.description.endswith("]"):
                field.description += f" [{', '.join(limits)}]"
