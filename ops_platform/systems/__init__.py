"""Adapters: each module talks to one thing in the outside world and decides nothing."""
