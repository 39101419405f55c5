"""The Shadeform marketplace: its HTTP API, its shapes as our types (`Offer`, `Instance`), and the three things that must not go
wrong with a rented instance: create it once, find it again, delete it and poll until it is gone. Knows nothing of training.
"""
