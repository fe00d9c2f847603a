"""The section `method` of a recipe, for tests that take many methods."""

from metgan_dist.recipe import methods


def owned(name, **fields):
    """`method.name` and those of the fields that the method has."""
    return {"name": name, **{field: v for field, v in fields.items() if not methods.foreign_fields(name, [field])}}
