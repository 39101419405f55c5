"""The Shadeform marketplace: its HTTP API, its records as our types (`Offer`, `Instance`), and the life of an instance: create
it once, find it again, delete it and poll until it is gone. Does not depend on training.
"""
