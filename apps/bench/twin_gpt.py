"""The PyTorch twin of a finished (or running) GPT run: the same model, initial weights, batches and optimizer.

    python apps/bench/twin_gpt.py RUN [--steps 1000] [--out twin.jsonl]     (torch, transformers, numpy)

Reads RUN/config.json, draws the initial weights and the order of the batches from the addresses of their random numbers
(Philox, engine/core/random.h; nothing is exported from the run), trains transformers' GPT2LMHeadModel in f32 on the CPU
with torch.optim.AdamW, and compares with RUN/metrics.jsonl: the largest gap of the loss over the first 200 steps, the gap
at the last step, learning rates, gradient norms, and the time of a step on both sides. Each line of --out has step, loss,
lr, grad_norm and seconds.
"""

import json
import math
import pathlib

import numpy as np
import torch
import twin
from addressed import normal, permuted, random_below
from transformers import GPT2Config, GPT2LMHeadModel
from twin import refuse_unless


# ---- the run's configuration in PyTorch -----------------------------------------------------------------------------
def make_model(m, seed):
    config = GPT2Config(
        vocab_size=m["vocab_size"], n_positions=m["context"], n_embd=m["embed_dim"], n_layer=m["depth"], n_head=m["num_heads"], n_inner=m["mlp_dim"] or None,
        activation_function="gelu_new" if m["activation"] == "gelu_tanh" else "gelu", layer_norm_epsilon=m["layer_norm_eps"],
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None)  # fmt: skip
    model = GPT2LMHeadModel(config)
    ours = {"wte": "tokens", "wpe": "positions", "attn.c_attn": "attn.qkv", "attn.c_proj": "attn.proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    with torch.no_grad():
        for name, p in model.named_parameters():
            path = name.removeprefix("transformer.").split(".")
            kind = path[-1]
            block, inner = (f"blocks.{path[1]}.", ".".join(path[2:-1])) if path[0] == "h" else ("", path[0])
            if inner.startswith("ln_") or kind == "bias":
                p.fill_(1.0 if kind == "weight" else 0.0)
                continue
            stddev = m["init_std"] / math.sqrt(2.0 * m["depth"]) if inner.endswith("c_proj") else m["init_std"]
            values = torch.from_numpy(normal(seed, f"init:{block}{ours[inner]}.weight", p.numel(), stddev))
            p.copy_(values.view(p.shape[::-1]).T if block else values.view(p.shape))  # our matrices are (out, in)
    return model


class Windows:
    """The training windows of the run: inputs w[0..T-1], targets w[1..T]."""

    def __init__(self, data, seed):
        folder, self.T, self.seed, self.sampling = pathlib.Path(data["path"]), data["length"], seed, data["sampling"]
        refuse_unless(self.sampling in ("shuffled", "random"), f"sampling {self.sampling} is not covered")
        meta = folder / "meta.json"
        width = json.loads(meta.read_text()).get("dtype", "uint16") if meta.exists() else "uint16"
        self.tokens = np.memmap(folder / "train.bin", dtype=width, mode="r")
        most = (len(self.tokens) - 1) // self.T
        self.epoch = most - 1 if most > 1 else 1

    def begins(self, first, count):
        n, T = len(self.tokens), self.T
        samples = np.arange(first, first + count)
        if self.sampling == "random":
            return np.array([random_below(self.seed, "data.random", 0, int(i), n - T) for i in samples])
        out = np.empty(count, dtype=np.int64)
        for epoch in np.unique(samples // self.epoch):
            here = samples // self.epoch == epoch
            slack = n - 1 - self.epoch * T
            offset = random_below(self.seed, "data.offset", int(epoch), 0, min(slack, T - 1) + 1)
            out[here] = offset + T * permuted(samples[here] % self.epoch, self.epoch, self.seed, int(epoch))
        return out

    def batch(self, first, count):
        rows = np.stack([self.tokens[b : b + self.T + 1] for b in self.begins(first, count)]).astype(np.int64)
        return torch.from_numpy(rows[:, :-1]), torch.from_numpy(rows[:, 1:])


class GptTwin:
    def __init__(self, recipe):
        m = recipe["model"]
        refuse_unless(recipe["family"] == "gpt", "expected a run of family gpt")
        dropout = [m["embed_dropout"], m["attn_dropout"], m["resid_dropout"]]
        refuse_unless(dropout == [0, 0, 0], "the run has dropout, whose random numbers PyTorch draws differently")
        refuse_unless(m["bias"], "GPT2LMHeadModel always has biases; expected model.bias=true")
        self.model = make_model(m, recipe["seed"])
        parameters = list(self.model.parameters())
        self.optimizer = twin.adamw(recipe["optim"], [p for p in parameters if p.dim() >= 2], [p for p in parameters if p.dim() < 2])
        self.windows = Windows(recipe["data"], recipe["seed"])
        self.epoch, self.sample_size = self.windows.epoch, self.windows.T

    def loss(self, first, count):
        x, y = self.windows.batch(first, count)
        return torch.nn.functional.cross_entropy(self.model(x, use_cache=False).logits.flatten(0, 1), y.flatten())


twin.main(__doc__, GptTwin)
