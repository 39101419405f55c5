"""nanolan: one command on a laptop to a trained checkpoint on the Hugging Face Hub, with the rented GPUs deleted.

The road of a run, in reading order:

    settings/    command line, environment and .env become `Settings`
    shadeform/   the marketplace: `Offer`, `Instance`; create, find, delete
    hub/         the Hub: client, transfers, proof of a `Manifest` (checkpoint/ says what that is)
    run/         what is known of a run: records in its run folder, the ledger on the laptop
    cost/        limits, forecast, bill
    launch/      checks -> `Plan` -> consent -> create -> wait until it trains (code/: what is sent)
    box/         on the instance: download, train, upload, prove, `Receipt`, delete itself

Not needed for a run, so that each can be deleted: status/ (look), manage/ (act), report/ (HTML page and model card),
doctor/ (check), sim/ (rehearse), identity.py, train_here.py. The trainer is model/ and train/; the box starts it as a
process. A new training phase is added in phases.py. docs/architecture.md has the picture.
"""
