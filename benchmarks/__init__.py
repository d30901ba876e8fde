"""Benchmarks: applications of the public API that measure, recompute and compare. Not packaged."""
