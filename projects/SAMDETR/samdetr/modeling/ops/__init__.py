"""Kernels: each behind one function, with a plain twin that reads like its equation."""
