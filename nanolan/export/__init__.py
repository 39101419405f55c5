"""A run on machines that somebody else rents: SkyPilot's task YAML, the arguments of a Hugging Face Job.

In: settings, a GPU and a price per hour. Out: the run folder on the Hub, and a `Job` as text. Nothing is rented or submitted here.
"""
