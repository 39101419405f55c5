"""Looks at runs from a laptop: where each is, its log, and why it ended (`Overview`, `RunView`). Changes nothing but notes in the
ledger.
"""
