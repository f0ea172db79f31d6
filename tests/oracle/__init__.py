"""Slow, obvious, per-token implementations of every equation, for one row at a time, in float64.

Nothing here imports the package. Configurations are plain dicts with the package's keys, weights are dicts of tensors with
the names of a module's `state_dict`. Everything is differentiable by autograd, so that gradients can be compared too.
"""
