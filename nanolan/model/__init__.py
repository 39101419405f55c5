"""The nanochat GPT of autumn 2025, its tokenizer and checkpoints, generation and chat. With train/, the only folder that imports
torch.
"""
