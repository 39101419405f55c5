"""The Hugging Face Hub: a client with retries and time limits, transfers in a child process that can be killed, pinned inputs, and
proof: every size and hash of a `Manifest` read back at a revision (`Proof`).
"""
