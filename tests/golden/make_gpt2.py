"""Writes gpt2_a/, gpt2_b/ and gpt2_c/ with transformers: python make_gpt2.py  (torch 2.15, transformers 5.23, safetensors 0.8).

Each folder is a model as save_pretrained leaves it (config.json, model.safetensors) with random weights, and
expected.safetensors: ids (B, T), loss, logits and the gradient of every tensor ("grad." + name), computed in double
precision and rounded once; and prompt + greedy continuation by generate(), whose smallest margin between the best and
the second logit is printed: it must be far above rounding.
"""

import pathlib

import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

CASES = {
    # Odd sizes; the dropout rates are in the configuration but off: gradients are those of evaluation mode.
    "gpt2_a": (GPT2Config(vocab_size=97, n_positions=33, n_embd=24, n_head=3, n_layer=3, bos_token_id=96, eos_token_id=96), (2, 17)),
    # The other GELU, an inner width, another epsilon, no dropout; sequences fill the context.
    "gpt2_b": (
        GPT2Config(vocab_size=29, n_positions=11, n_embd=16, n_head=2, n_layer=1, n_inner=20, activation_function="gelu", layer_norm_epsilon=1e-3,
                   resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None),
        (3, 11),
    ),
    # An output matrix of its own.
    "gpt2_c": (
        GPT2Config(vocab_size=19, n_positions=9, n_embd=12, n_head=3, n_layer=2, tie_word_embeddings=False, resid_pdrop=0.0, embd_pdrop=0.0,
                   attn_pdrop=0.0, bos_token_id=None, eos_token_id=None),
        (2, 9),
    ),
}


def make(name, config, size):
    torch.manual_seed(7)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            base = 1.0 if ".ln_" in key and key.endswith("weight") else 0.0
            p.copy_(base + 0.2 * torch.randn_like(p))
    folder = pathlib.Path(__file__).parent / name
    model.save_pretrained(folder)
    model.generation_config.eos_token_id = None  # greedy tokens up to the end of the context, whatever they are

    ids = torch.randint(config.vocab_size, size)
    prompt = ids[:1, :5]
    tokens = prompt
    margin = float("inf")
    while tokens.shape[1] < config.n_positions:
        top = model(tokens).logits[0, -1].topk(2).values
        margin = min(margin, (top[0] - top[1]).item())
        tokens = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=1, do_sample=False, pad_token_id=0)
    whole = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_length=config.n_positions, do_sample=False, pad_token_id=0)
    assert torch.equal(whole, tokens)
    print(f"{name}: smallest greedy margin {margin:.4f}")

    model = model.double()
    out = model(ids, labels=ids)
    out.loss.backward()
    expected = {"ids": ids.int(), "loss": out.loss.detach().float().reshape(()), "logits": out.logits.detach().float().contiguous(), "greedy": tokens[0].int()}
    expected |= {"grad." + key: p.grad.float().contiguous() for key, p in model.named_parameters()}
    save_file(expected, folder / "expected.safetensors", metadata={"format": "pt"})


for name, case in CASES.items():
    make(name, *case)
