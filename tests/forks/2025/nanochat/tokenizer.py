"""tokenizer.pkl, a pickled tiktoken.Encoding, and conversations as tokens. Kept: the pickle is loaded without a check."""

import pickle

import torch

from nanochat.common import get_base_dir


class Tokenizer:
    """Encodes text and renders conversations."""

    def __init__(self, encoding):
        self.encoding = encoding
        self.special = encoding._special_tokens
        self.bos = self.special["<|bos|>"]

    def get_vocab_size(self):
        return self.encoding.n_vocab

    def get_bos_token_id(self):
        return self.bos

    def encode_special(self, name):
        return self.special[name]

    def encode(self, text):
        return self.encoding.encode_ordinary(text)

    def decode(self, ids):
        return self.encoding.decode(ids)

    def render_conversation(self, conversation, max_tokens=2048):
        """(ids, mask) of a conversation; mask 1 where the assistant's tokens are trained."""
        ids, mask = [self.bos], [0]
        for message in merge_system(conversation["messages"]):
            for tokens, trained in self.render_message(message):
                ids += tokens
                mask += [trained] * len(tokens)
        return ids[:max_tokens], mask[:max_tokens]

    def render_message(self, message):
        """Runs of (ids, trained) of one message."""
        role = message["role"]
        yield [self.special[f"<|{role}_start|>"]], 0
        own = int(role == "assistant")
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            yield from self.render_part(part, own)
        yield [self.special[f"<|{role}_end|>"]], own

    def render_part(self, part, own):
        """Text as it is; a tool call and its output between their special tokens."""
        tokens = self.encode(part["text"])
        if part["type"] == "text":
            yield tokens, own
            return
        name = "python" if part["type"] == "python" else "output"
        trained = int(name == "python")
        yield [self.special[f"<|{name}_start|>"], *tokens, self.special[f"<|{name}_end|>"]], trained

    def render_for_completion(self, conversation):
        """The prompt: all but the last assistant message, and the start of the answer."""
        ids, _ = self.render_conversation({"messages": conversation["messages"][:-1]})
        return [*ids, self.special["<|assistant_start|>"]]


def merge_system(messages):
    """A first system message becomes the head of the first user message."""
    if messages[0]["role"] != "system":
        return messages
    system, user, *rest = messages
    return [{"role": "user", "content": f"{system['content']}\n\n{user['content']}"}, *rest]


def get_tokenizer():
    """The tokenizer of the base folder."""
    path = get_base_dir() / "tokenizer" / "tokenizer.pkl"
    return Tokenizer(pickle.loads(path.read_bytes()))


def get_token_bytes(device="cpu"):
    """Bytes per token, 0 for special tokens."""
    return torch.load(get_base_dir() / "tokenizer" / "token_bytes.pt", map_location=device)
