"""Compiled passes over parameters that are no optimizers: what wrappers, constraints and clips of the update are made of.

Each is a rule with a class and a reference, as an optimizer is; `schuss.optimizers()` does not list them.
"""
