"""just doctor: every requirement of a launch is checked, with a fix per line. Changes nothing, costs nothing."""
