"""Benchmarks: ratios against a bare script in the same run, never asserted on in the suite."""
