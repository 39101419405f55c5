"""The checkout that a launch sends: which files, checked for secrets, as a git bundle. In: a folder. Out: a `Snapshot` and the
bytes of a bundle. Runs only git.
"""
