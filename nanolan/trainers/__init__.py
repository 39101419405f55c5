"""Foreign trainers: any nanochat checkout on the same road.

In: the setting `trainer`, a folder or URL@commit. Out: the `Fork` of a plan, the bundle to send, checklist lines (choose.py), and
what the instance needs to drive it (adapter/, inside/). The laptop only reads a checkout; nothing here knows money or the Hub.
"""
