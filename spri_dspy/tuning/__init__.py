"""Tuning: searching for the seeds and wordings that raise a set-level metric, within a stated budget.

`racing` decides which candidate to evaluate on which rows and names the best; it knows nothing of LMs,
programs or files.
"""
