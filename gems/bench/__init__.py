"""Benchmarks that ship with the package: each operator beside ATen's and beside a plain copy of the same bytes."""
