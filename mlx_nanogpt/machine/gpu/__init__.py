"""Better leaves and a setting of Metal for a GPU, above all a Mac's. `machine/__init__.py` is its door."""
