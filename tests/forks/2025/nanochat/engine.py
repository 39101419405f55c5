"""Generation. Kept: one prompt at a time, its samples as the rows of a batch; no tool is run."""

import torch


@torch.no_grad()
def generate(model, tokenizer, prompt, rows, max_tokens, temperature=1.0, top_k=50, seed=42):
    """`rows` completions (ids) of the prompt; each ends before <|assistant_end|> or <|bos|>."""
    device = model.get_device()
    rng = torch.Generator(device=device).manual_seed(seed)
    ends = {tokenizer.encode_special("<|assistant_end|>"), tokenizer.get_bos_token_id()}
    ids = torch.tensor([prompt] * rows, device=device)
    ended = [False] * rows
    found = [[] for _ in range(rows)]
    for _ in range(max_tokens):
        new = sample(model(ids)[:, -1], temperature, top_k, rng)
        ids = torch.cat([ids, new], dim=1)
        for i, token in enumerate(new.flatten().tolist()):
            ended[i] = ended[i] or token in ends
            if not ended[i]:
                found[i].append(token)
        if all(ended):
            break
    return found


def sample(logits, temperature, top_k, rng):
    """The next token (rows, 1) of each row."""
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    if top_k:
        least = logits.topk(min(top_k, logits.size(-1)))[0][:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=rng)
