"""What the header of a NIfTI file says wrongly, or not at all, which its readers mend or guess without a word."""

from __future__ import annotations

from collections.abc import Iterator

import nibabel
from nibabel.openers import ImageOpener

from metgan_dist.inspection.finding import Finding
from metgan_dist.storage import local_copy
from metgan_dist.volumes.labelled import VolumeRef
from metgan_dist.volumes.nifti import SUFFIXES


def of_headers(ref: VolumeRef) -> Iterator[Finding]:
    """Findings on the files of a volume and its label, which open as NIfTI."""
    label = ref.label_path()
    for uri in dict.fromkeys((*ref.paths, *([label] if label else []))):
        if uri.lower().endswith(SUFFIXES):
            for what in _of_header(str(local_copy(uri, ref.options))):
                yield Finding("warning", ref.id, f"{uri}: {what}")


def _of_header(path: str) -> Iterator[str]:
    kind = type(nibabel.load(path).header)
    with ImageOpener(path) as content:
        header = kind.from_fileobj(content, check=False)  # as it is stored: nibabel mends what it reads
    placed = bool(header["sform_code"] > 0 or header["qform_code"] > 0)
    if not placed:
        yield "does not say towards which sides its axes run (sform and qform codes are 0), LAS is taken; correct it"
    sizes = [float(size) for size in header["pixdim"][1:4]]
    if not all(size > 0 for size in sizes):
        shown = ", ".join(f"{size:g}" for size in sizes)
        instead = "its affine is used" if placed else "1, or the size without its sign, is taken"
        yield f"voxel size (x, y, z) {shown} in its header; {instead}: correct it, or state `spacing`"
