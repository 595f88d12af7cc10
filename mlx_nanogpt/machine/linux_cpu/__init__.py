"""What only MLX's CPU backend on Linux needs: a fast BLAS, threads, and the same layers in faster forms.

`machine.py` is the door. Outside this folder only `mlx_nanogpt/machine.py` imports it, and `mlx_nanogpt/__init__.py` the BLAS,
which has to be loaded before MLX.
"""
