"""One file per command of ``covid-xray``; an underscore marks what belongs to one of them.

What several share lies in the folders `run`, `sweep` and `study`.
"""
