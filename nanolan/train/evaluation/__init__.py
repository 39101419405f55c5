"""Evaluation of a checkpoint on the tasks of ChatCORE, as a separate job."""
