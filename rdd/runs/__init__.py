"""Directories that stages write: training runs and their checkpoints, detectors, evaluations, sweeps."""
