"""Both theorems and what practice makes of them, on tables: exact, and by the sampled step.

A group of fields named like an experiment goes to its `Settings`; what is left out has the default
that stands there.
"""

import ml_collections


def get_config():
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.experiments = (
    "theorem1",
    "theorem2",
    "alternation",
    "practice",
    "identifiability",
    "failures",
    "scaling",
    "bayes",
  )
  return c
