"""Cairn in the places of PyTorch's own and related checkpoint libraries. Each module is imported by itself."""
