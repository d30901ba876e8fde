"""Set-level metrics with intervals, and paired comparisons of two systems."""
