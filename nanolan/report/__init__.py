"""A run as one HTML page, and the model card. In: the files of a run folder. Out: text; no network, no script."""
