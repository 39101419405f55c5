"""What a checkpoint is: nanochat's files and those beside them (tokenizer, conversations, data sets), our manifest, and how
to read them without running anything. Out: `Manifest`, `ModelSize`, `GPTConfig`. Shared by laptop, box and trainer; no torch.
"""
