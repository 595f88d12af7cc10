"""Runs on the disk: what a run is, how training is recorded, and how a run is found again."""
