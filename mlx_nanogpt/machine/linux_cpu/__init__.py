"""A fast BLAS, threads and faster leaves for MLX's CPU backend on Linux. `machine/__init__.py` is its door, and imports the BLAS
before MLX."""
