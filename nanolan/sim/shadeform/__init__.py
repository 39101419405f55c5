"""A Shadeform on loopback: the same API and quirks; its boxes are processes, nothing is rented."""
