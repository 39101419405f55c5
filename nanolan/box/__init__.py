"""The program on the rented machine (main.py): check it, download, train each phase (phase.py), upload, prove, delete the instance
(self_delete.py). In: a `Plan` and secrets. Out: checkpoints and a `Receipt` on the Hub. watch/ runs beside the training, upload/
puts on the Hub what came of it.
"""
