"""What is known of a run: the records that the box writes into the run folder (`Progress`, `Receipt`), the laptop's ledger
(`Entry`), which instances are the run's, and why a run ended.
"""
