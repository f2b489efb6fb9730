"""XLA as a target, through JAX: graphs as pure functions, compiled for fixed shapes.

Importing a module of this package imports JAX, but for `environment`, which comes
first, and `platforms`.
"""
