"""The PyTorch twin of a finished (or running) GPT run: the same model, initial weights, batches and optimizer.

    python apps/bench/twin_gpt.py RUN [--steps 1000] [--out twin.jsonl]     (torch, transformers, numpy)

Reads RUN/config.json, draws the initial weights and the order of the batches from the addresses of their random numbers
(Philox, engine/core/random.h; nothing is exported from the run), trains transformers' GPT2LMHeadModel in f32 on the CPU
with torch.optim.AdamW, and compares with RUN/metrics.jsonl: the largest gap of the loss over the first 200 steps, the gap
at the last step, learning rates, gradient norms, and the time of a step on both sides. Each line of --out has step, loss,
lr, grad_norm and seconds.
"""

import argparse
import json
import math
import pathlib
import sys
import time

import numpy as np
import torch
from addressed import compare, learning_rate, normal, permuted, random_below, refuse_unless, steps_of
from transformers import GPT2Config, GPT2LMHeadModel

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


def make_optimizer(model, o):
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": o["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"])


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


# ---- training and comparing -----------------------------------------------------------------------------------------
def train(recipe, steps, out):
    o, s, size, seed = recipe["optim"], recipe["schedule"], recipe["batch"]["size"], recipe["seed"]
    windows = Windows(recipe["data"], seed)
    per_epoch, per_step = windows.epoch / size, windows.T * size
    total = steps_of(recipe["duration"], per_epoch, per_step, 0)
    warmup = steps_of(s["warmup"], per_epoch, per_step, total)
    model = make_model(recipe["model"], seed).train()
    optimizer = make_optimizer(model, o)
    micro = recipe["batch"]["micro"] or size
    records = []
    for t in range(min(steps, total)):
        begin = time.perf_counter()
        lr = learning_rate(s, o["lr"], t, warmup, total)
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = 0.0
        for piece in range(size // micro):
            x, y = windows.batch(t * size + piece * micro, micro)
            l = torch.nn.functional.cross_entropy(model(x, use_cache=False).logits.flatten(0, 1), y.flatten()) * (micro / size)
            l.backward()
            loss += l.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), o["clip"] if o["clip"] > 0 else math.inf).item()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        records.append({"step": t + 1, "loss": loss, "lr": lr, "grad_norm": norm, "seconds": time.perf_counter() - begin})
        out.write(json.dumps(records[-1]) + "\n")
        out.flush()
        if t % 20 == 0:
            print(f"step {t + 1}/{min(steps, total)} loss {loss:.4f} {records[-1]['seconds'] * 1e3:.0f} ms", file=sys.stderr)
    return records, per_step


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, help="run folder of train_gpt")
    parser.add_argument("--steps", type=int, default=1000, help="steps of the twin (default: 1000, or the whole run)")
    parser.add_argument("--data", help="folder of the token files (default: as in the run's configuration)")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: those of the run)")
    parser.add_argument("--out", type=pathlib.Path, help="losses of the twin, JSON lines (default: RUN/twin.jsonl)")
    args = parser.parse_args()

    config = json.loads((args.run / "config.json").read_text())
    recipe, m = config["recipe"], config["recipe"]["model"]
    if args.data:
        recipe["data"]["path"] = args.data
    dropout = [m["embed_dropout"], m["attn_dropout"], m["resid_dropout"]]
    refuse_unless(dropout == [0, 0, 0], "the run has dropout, whose random numbers PyTorch draws differently")
    refuse_unless(recipe["precision"] == "f32", f"the run is in {recipe['precision']}; expected precision=f32")
    refuse_unless(recipe["optim"]["name"] == "adamw" and recipe["optim"]["bias_correction"], "expected optim.name=adamw with bias correction")
    refuse_unless(recipe["plan"]["name"] == "plain", "expected the plain plan")
    refuse_unless(m["bias"], "GPT2LMHeadModel always has biases; expected model.bias=true")
    torch.set_num_threads(args.threads or config["threads"])
    with open(args.out or args.run / "twin.jsonl", "w") as out:
        records, per_step = train(recipe, args.steps, out)
    print(json.dumps(compare(records, args.run / "metrics.jsonl", per_step), indent=2))


main()
