"""Rollouts: another image for a service while it goes on serving."""
