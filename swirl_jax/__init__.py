"""World models that improve themselves from states alone: SWIRL (arXiv:2602.06130) in JAX.

A forward world model P(y | x, z) and an inverse dynamics model Q(z | x, y) take turns as policy and
as reward. `python -m swirl_jax.main` runs it; `swirl_jax.phases.phase_step` is the step it repeats.
"""

__version__ = "0.1.0"
