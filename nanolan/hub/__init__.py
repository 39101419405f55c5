"""The Hugging Face Hub: a client with retries and time limits, transfers in a child process that can be killed, pinned inputs, and
proof of an upload: every size and hash of a `Manifest`, read back from the Hub at a revision (`Proof`, in proof.py).
"""
