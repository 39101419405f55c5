"""Programs that run in a fork's own interpreter, in its folder: each file stands alone and imports nothing of nanolan.

In: arguments and environment variables. Out: files and lines that the adapter or the box reads.
"""
