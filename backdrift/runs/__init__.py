"""Run folders: the checked config, checkpoints, metrics and where results are written."""
