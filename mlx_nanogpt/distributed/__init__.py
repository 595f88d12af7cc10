"""Several processes, called ranks, train one model: each computes its rows of a batch, and their gradients are averaged.

`ranks.py` is the arithmetic, `lifeline.py` notices a rank that is gone, `joining.py` brings the ranks together.
"""
