"""What pays on a GPU, a Mac's above all: layers with other gradients, and a setting of Metal. `mlx_nanogpt.machine` is the way
in."""
