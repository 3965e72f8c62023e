"""Measurements of the platform beside what a user would otherwise run, in one run, as ratios."""
