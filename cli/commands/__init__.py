"""The commands of `mlx-gpt`, one file each."""
