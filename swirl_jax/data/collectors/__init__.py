"""Collected worlds: environments that are played, each a file of its own."""
