"""The numbers that FreeSurfer's segmentations of the brain have, grouped into named tissues.

Numbers by FreeSurfer's table of colours (FreeSurferColorLUT.txt): `aseg`, and the parcels of cortex and white matter of
`aparc+aseg` and `wmparc`. Those of what lies outside the brain are not named.
"""

from __future__ import annotations

from collections.abc import Iterable

_TISSUES: dict[str, tuple[Iterable[int], ...]] = {
    "white matter": ((2, 41, 77, 78, 79, 85, 5001, 5002), range(251, 256), range(3000, 3036), range(4000, 4036)),
    "grey matter": ((3, 42, 17, 53, 18, 54), range(1000, 1036), range(2000, 2036)),
    # Thalamus, caudate, putamen, pallidum, accumbens, ventral diencephalon.
    "deep grey matter": ((9, 48, 10, 49, 11, 50, 12, 51, 13, 52, 26, 58, 28, 60),),
    "CSF": ((24, 30, 62),),  # vessels lie in it
    # With their choroid plexus.
    "ventricles": ((4, 43, 5, 44, 14, 15, 72, 31, 63),),
    "cerebellum": ((6, 45, 7, 46, 8, 47),),
    "brain-stem": ((16,),),
}

FREESURFER: dict[int, str] = {
    int(value): name for name, groups in _TISSUES.items() for group in groups for value in group
}
"""Value -> tissue, seven of them; what `labels: freesurfer` stands for."""
