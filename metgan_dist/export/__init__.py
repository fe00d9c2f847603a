"""What users have in other tools: tiles and volumes as nnU-Net's raw data, or folders of NIfTI, TIFF, PNG, OME-Zarr."""
