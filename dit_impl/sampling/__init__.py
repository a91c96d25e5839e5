"""Noise levels, schedules, solvers, and the loop over steps."""
