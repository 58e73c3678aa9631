"""Cairn inside PyTorch's own tools. Nothing here is imported by ``import cairn``, which goes on without torch."""
