"""How fast the variants converge: the paper's statements tried on the bundled data set.

Paper: figures 6 and 7, tables 3 and 4, section 5.5; the page is docs/convergence.md.
"""
