"""Measurements: the benchmark, the plan of a run, the doctor, and what a Mac should take."""
