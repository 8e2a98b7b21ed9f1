"""The proving ground for somebody else's consumer: their handler, their tables, their invariant.

`proof.prove` carries out `settings.ProveSettings` and gives a `verdict.ProveResult`. Nothing is imported
here, because each consumer process starts from this package and is started dozens of times.
"""
