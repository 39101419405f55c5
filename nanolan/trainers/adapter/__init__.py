"""The program that drives a foreign trainer on the instance: python -m nanolan.trainers.adapter JOB.json.

In: the job of one phase (fork_job.py). Out: heartbeat, metrics, states and checkpoints with manifests, as nanolan's own trainer
leaves them. It starts the fork's scripts; it does not know the instance, the Hub or the money.
"""
