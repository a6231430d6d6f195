"""Honest evaluation: metrics with intervals, by generator, and their figures."""
