"""What makes a GPU faster, above all a Mac's. `mlx_nanogpt.machine` uses the layers; `mlx_nanogpt/__init__.py` imports the
setting of Metal."""
