"""Rehearsals and tests: a local Shadeform, a local Hub, instances as local processes, and faults injected into them."""
