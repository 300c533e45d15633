"""Environments that are played for their transitions, one file each; see `data/collection.py`."""
