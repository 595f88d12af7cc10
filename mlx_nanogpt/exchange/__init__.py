"""Models in and out: other programs' layouts, and the hub where they are kept."""
