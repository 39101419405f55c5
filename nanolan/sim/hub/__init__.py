"""A Hugging Face Hub on loopback: enough of its HTTP API for the real huggingface_hub client and hf-xet."""
