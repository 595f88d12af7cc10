"""The one way in which a machine changes a model: leaves get another class."""

from collections.abc import Mapping

import mlx.nn as nn


def replace_leaves(model: nn.Module, classes: Mapping[type[nn.Module], type[nn.Module]]) -> None:
    """Give each layer of `model` its class in `classes`, in place, as `nn.quantize` does. Arrays, names and mode stay. A layer of
    another class, also of a subclass, stays as it is."""
    for module in model.modules():
        if own := classes.get(type(module)):
            module.__class__ = own
