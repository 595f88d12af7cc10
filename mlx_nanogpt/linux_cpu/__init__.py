"""What only MLX's CPU backend on Linux needs: a fast BLAS, threads, and layers in other forms of the same formulas.

`machine.py` is its door: nobody outside this folder imports it but `mlx_nanogpt/machine.py`, and `mlx_nanogpt/__init__.py`
for the BLAS, which has to be loaded before MLX.
"""
