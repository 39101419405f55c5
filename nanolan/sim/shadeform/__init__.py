"""A Shadeform on loopback: the same API and quirks; its instances are local processes, and nothing is rented."""
