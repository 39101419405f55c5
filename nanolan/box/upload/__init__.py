"""What the box puts on the Hub: each phase's result and saved states, with proof, and at the end the run's files (log, metrics,
report, receipt). In: folders on this disk and a `BoxRun`. Out: a `Proof` per checkpoint; one commit for the rest.
"""
