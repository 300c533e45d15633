"""Worlds that are collected by acting in an environment, a file each."""
