"""Rehearsals and tests: a local Shadeform, a local Hub, boxes as processes of this machine, and faults that are played on them."""
