"""File formats: nanochat's checkpoint, tokenizer, conversations and data sets, and nanolan's manifest; readers that execute
nothing. Out: `Manifest`, `ModelSize`, `GPTConfig`. Shared by laptop, box and trainer; no torch.
"""
