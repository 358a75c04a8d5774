"""Layer-fusion scheduling of attention on multi-core accelerators.

The names a program needs; heavy libraries load when they are used, not here.
"""
