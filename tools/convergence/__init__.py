"""Convergence study: the paper's claims tested on the bundled data set.

Paper: figures 6 and 7, tables 3 and 4, section 5.5. The results are in docs/convergence.md.
"""
