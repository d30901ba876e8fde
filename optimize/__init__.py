"""Recipes for tuning, on a shelf: run one with `python -m optimize NAME`, or copy it and change what it says."""
