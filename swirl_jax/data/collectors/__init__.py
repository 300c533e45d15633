"""Worlds that are collected from running environments (docs/worlds/), one file each."""
