"""The records of a run: those that the box writes into the run folder (`Progress`, `Receipt`), the laptop's ledger (`Entry`),
which instances belong to a run, and why a run ended.
"""
