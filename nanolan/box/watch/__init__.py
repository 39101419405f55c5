"""What runs beside the training: spending, progress of the trainer, heartbeat, log, and requests to stop or to change the limit.
Each has a thread of its own; none of them may stop a deletion.
"""
