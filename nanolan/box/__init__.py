"""The program on the rented machine: check it, download, train each phase, upload, prove, delete the instance. In: a `Plan` and
secrets. Out: checkpoints and a `Receipt` on the Hub. watch/ runs beside the training, upload/ puts on the Hub what came of it.
"""
