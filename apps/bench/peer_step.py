#!/usr/bin/env python3
"""The step of `bench step` in PyTorch: same model, same batch, same optimizer, same JSON. See README.md beside this file.

    python3 apps/bench/peer_step.py --model gpt2 --batch 4 --length 256 --precision bf16 --json
    python3 apps/bench/peer_step.py --model deit-small --batch 32 --precision bf16 --json        (needs timm)
    python3 apps/bench/peer_step.py --device cuda --compile --mode max-autotune --batch 64 --length 1024 --json

On a GPU the host waits for no step: the batch comes from page-locked memory, beside the arithmetic of the step before,
and events between the steps are read at the end. Attention runs on whichever of PyTorch's kernels (flash, cuDNN,
memory-efficient) is fastest at this size.
"""
import argparse
import json
import resource
import statistics
import sys
import time

BEGIN = time.perf_counter()

import torch
import torch.nn as nn
import torch.nn.functional as F

# Pictures: timm's VisionTransformer (patch, width, depth, heads) and VOLO.
VISION = {"vit-tiny": (16, 192, 12, 3), "vit-small": (16, 384, 12, 6), "vit-base": (16, 768, 12, 12), "vit-large": (16, 1024, 24, 16),
          "deit-tiny": (16, 192, 12, 3), "deit-small": (16, 384, 12, 6), "deit-base": (16, 768, 12, 12)}  # fmt: skip
VOLO = ["volo-d1", "volo-d2", "volo-d3", "volo-d4", "volo-d5"]
SIZES = {"gpt2": (12, 12, 768), "gpt2-medium": (24, 16, 1024), "gpt2-large": (36, 20, 1280), "gpt2-xl": (48, 25, 1600)}


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (t.view(B, T, self.heads, C // self.heads).transpose(1, 2) for t in self.qkv(self.norm1(x)).split(C, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, vocab, context, width, depth, heads):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.dim() == 2:
                nn.init.normal_(p, std=0.02 / ((2 * depth) ** 0.5 if "proj" in name or "fc2" in name else 1))

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.view(-1))


class Picture(nn.Module):
    """timm's model with the soft-target loss of vision recipes; VOLO also learns from every patch, as ours does."""

    def __init__(self, name, resolution, patch, width, depth, heads, classes):
        super().__init__()
        import timm

        self.patches = name in VOLO
        if self.patches:
            self.net = timm.create_model(f"{name.replace('-', '_')}_224", img_size=resolution, num_classes=classes)
            self.net.mix_token = False
        else:
            self.net = timm.models.vision_transformer.VisionTransformer(
                img_size=resolution, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads, num_classes=classes)

    def forward(self, x, targets):
        def loss(logits, wanted):
            return -(wanted * F.log_softmax(logits.float(), -1)).sum(-1).mean()

        if not self.patches:
            return loss(self.net(x), targets)
        of_class, of_patches = self.net.forward_train(x)[:2]
        of_class = self.net.head(of_class)  # which timm leaves to the caller
        return loss(of_class, targets) + 0.5 * loss(of_patches, targets.unsqueeze(1))


class Ahead:
    """Batches on the GPU, two places in turn: one is filled while the step before it runs, as by loaders of training."""

    def __init__(self, host):
        self.host, self.stream = [t.pin_memory() for t in host], torch.cuda.Stream()
        self.now, self.next = ([t.to("cuda") for t in self.host] for _ in range(2))

    def __call__(self):
        compute = torch.cuda.current_stream()
        compute.wait_stream(self.stream)
        self.stream.wait_stream(compute)  # until the step that read it is over
        self.now, self.next = self.next, self.now
        with torch.cuda.stream(self.stream):
            for there, here in zip(self.next, self.host):
                there.copy_(here, non_blocking=True)
        return self.now


def fastest_attention(batch, heads, length, head_dim, dtype, causal):
    """Leaves only the fastest fused attention kernel of PyTorch switched on; its name."""
    switches = {"flash": torch.backends.cuda.enable_flash_sdp, "cudnn": torch.backends.cuda.enable_cudnn_sdp,
                "memory-efficient": torch.backends.cuda.enable_mem_efficient_sdp}  # fmt: skip

    def only(name):
        for other, switch in switches.items():
            switch(other == name)
        torch.backends.cuda.enable_math_sdp(name is None)

    # As the models have them: q, k and v of a token lie side by side, and the heads of a token too.
    random = lambda *shape: torch.randn(*shape, device="cuda", dtype=dtype)
    qkv = random(batch, length, 3, heads, head_dim).permute(2, 0, 3, 1, 4).requires_grad_()
    dy = random(batch, length, heads, head_dim).transpose(1, 2)
    best, best_ms = None, float("inf")
    for name in switches:
        only(name)
        try:
            for i in range(13):
                if i == 3:
                    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                    begin.record()
                F.scaled_dot_product_attention(*qkv.unbind(), is_causal=causal).backward(dy)
            end.record()
            torch.cuda.synchronize()
        except RuntimeError:  # does not serve this type or size
            continue
        if begin.elapsed_time(end) < best_ms:
            best, best_ms = name, begin.elapsed_time(end)
    only(best)
    return best or "plain"


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("--model", default="gpt2", choices=[*SIZES, *VISION, *VOLO])
    a.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    a.add_argument("--batch", type=int, default=4)
    a.add_argument("--length", type=int, default=256)
    a.add_argument("--precision", default="bf16", choices=["f32", "tf32", "bf16", "pure-bf16"],
                   help="bf16: autocast over f32 weights; pure-bf16: weights and moments in bf16 too")
    a.add_argument("--depth", type=int, default=0)
    a.add_argument("--embed-dim", type=int, default=0)
    a.add_argument("--num-heads", type=int, default=0)
    a.add_argument("--vocab", type=int, default=0)
    a.add_argument("--resolution", type=int, default=0, help="pictures; 0: 224")
    a.add_argument("--patch", type=int, default=0, help="pictures; 0: of the model")
    a.add_argument("--classes", type=int, default=0, help="pictures; 0: 1000")
    a.add_argument("--steps", type=int, default=10)
    a.add_argument("--warmup", type=int, default=3)
    a.add_argument("--threads", type=int, default=0, help="0: all processors")
    a.add_argument("--compile", action="store_true", help="torch.compile the model (compiling counts as time to the first step)")
    a.add_argument("--mode", default="default", choices=["default", "reduce-overhead", "max-autotune"], help="of torch.compile")
    a.add_argument("--json", action="store_true")
    o = a.parse_args()
    if o.threads:
        torch.set_num_threads(o.threads)
    cuda = o.device == "cuda"
    if cuda and not torch.cuda.is_available():
        sys.exit("peer_step: PyTorch finds no GPU")
    torch.set_float32_matmul_precision("high" if o.precision in ("tf32", "bf16") else "highest")
    pictures = o.model not in SIZES
    if pictures:
        patch, width, depth, heads = VISION.get(o.model, (0, 0, 0, 1))
    else:
        patch, (depth, heads, width) = 0, SIZES[o.model]
    depth, heads, width = o.depth or depth, o.num_heads or heads, o.embed_dim or width
    resolution, classes, patch = o.resolution or 224, o.classes or 1000, o.patch or patch
    vocab, context = o.vocab or 50257, max(1024, o.length)
    dtype = torch.bfloat16 if "bf16" in o.precision else torch.float32
    probe_begin = time.perf_counter()
    tokens_seen = (resolution // patch) ** 2 + 1 if pictures and patch else o.length
    attention = "all" if cuda else "cpu"  # VOLO has several sizes
    if cuda and width:
        attention = fastest_attention(o.batch, heads, tokens_seen, width // heads, dtype, causal=not pictures)
    probe = time.perf_counter() - probe_begin

    torch.manual_seed(1)
    make = lambda: Picture(o.model, resolution, patch, width, depth, heads, classes) if pictures else Gpt(vocab, context, width, depth, heads)
    # VOLO has real convolutions; ViT has the one that cuts patches, 1 % of its work.
    layout = torch.channels_last if cuda and o.model in VOLO else torch.contiguous_format
    model = make().to(o.device, memory_format=layout)
    if o.precision == "pure-bf16":
        model = model.bfloat16()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
                                  lr=6e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)
    run = torch.compile(model, mode=o.mode) if o.compile else model
    if pictures:
        soft = 0.9 * F.one_hot(torch.randint(0, classes, (o.batch,)), classes).float() + 0.1 / classes
        images = 4 * torch.rand(o.batch, 3, resolution, resolution) - 2
        host = [images.to(next(model.parameters()).dtype, memory_format=layout), soft]
    else:
        host = [torch.randint(0, vocab, (o.batch, o.length)) for _ in range(2)]
    if cuda:
        torch.backends.cudnn.benchmark = True
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    batches = Ahead(host) if cuda else lambda: host
    wait = torch.cuda.synchronize if cuda else lambda: None

    def step():
        """The loss, not read; on the CPU also the seconds of the step and of its parts."""
        begin = time.perf_counter()
        if cuda and o.compile:
            torch.compiler.cudagraph_mark_step_begin()
        optimizer.zero_grad(set_to_none=True)
        inputs, targets = batches()
        with torch.autocast(o.device, dtype=torch.bfloat16, enabled=o.precision == "bf16"):
            loss = run(inputs, targets)
        middle = time.perf_counter()
        loss.backward()
        after = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        end = time.perf_counter()
        return loss.detach(), [end - begin, middle - begin, after - middle, end - after]

    loss, _ = step()
    wait()
    first, first_loss = time.perf_counter() - BEGIN - probe, loss.item()
    tenth_at, runs, marks = None, [], []
    for i in range(1, o.warmup + o.steps):
        if cuda and i >= max(1, o.warmup):
            if not marks:
                marks.append(torch.cuda.Event(enable_timing=True))
                marks[0].record()
            loss, _ = step()
            marks.append(torch.cuda.Event(enable_timing=True))
            marks[-1].record()
        else:
            loss, seconds = step()
            if i >= o.warmup:
                runs.append(seconds)
        if i == 9:
            wait()
            tenth_at = time.time()
    wait()
    last_loss = loss.item()
    if cuda:
        runs = [[a.elapsed_time(b) / 1e3] for a, b in zip(marks, marks[1:])]
    elif not runs:
        sys.exit("peer_step: --steps is too small; the first step is never counted")
    median = [statistics.median(r[i] for r in runs) for i in range(len(runs[0]))]
    tokens = o.batch if pictures else o.batch * o.length
    products = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 2 and n != "positions.weight")
    # 2 per multiply-add; forward, and twice that backward; attention: half of the T x T scores, two products.
    flops = 3 * tokens * (2 * products + depth * 2 * width * (o.length + 1))
    rate = "images_per_second" if pictures else "tokens_per_second"
    if pictures:  # counted by our own program; every product of a ViT sees all tokens but the head's
        flops = 3 * o.batch * 2 * (depth * (12 * width**2 * tokens_seen + 2 * tokens_seen**2 * width) + (tokens_seen - 1) * 3 * patch**2 * width + classes * width)
        flops = flops if width else None
    result = {
        "peer": "torch " + torch.__version__ + (f" compiled ({o.mode})" if o.compile else " eager"),
        "device": torch.cuda.get_device_name() if cuda else "cpu", "attention": attention, "model": o.model,
        "params": sum(p.numel() for p in model.parameters()), "batch": o.batch,
        **({"resolution": resolution} if pictures else {"length": o.length}), "precision": o.precision, "threads": torch.get_num_threads(),
        "step_seconds": {"median": median[0], "min": min(r[0] for r in runs), "max": max(r[0] for r in runs)},
    }  # fmt: skip
    if not cuda:
        result |= {"forward_seconds": median[1], "backward_seconds": median[2], "optimizer_seconds": median[3]}
    result |= {
        rate: tokens / median[0], "flops_per_step": flops, "flops_per_second": flops / median[0] if flops else None,
        "peak_process_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "time_to_first_step": first, "first_loss": first_loss, "last_loss": last_loss,
    }  # fmt: skip
    if cuda:
        result |= {"peak_memory": torch.cuda.max_memory_allocated(), "reserved_memory": torch.cuda.max_memory_reserved()}
    if tenth_at:
        result["tenth_step_at"] = tenth_at - probe  # a user would know which attention is fastest
    if o.json:
        print(json.dumps(result, indent=2))
    else:
        print(f"{result['peer']}, {result['params'] / 1e6:.1f} M parameters, {o.precision}: "
              f"{1e3 * median[0]:.1f} ms a step, {result[rate]:.0f} {'img' if pictures else 'tok'}/s, "
              f"{(result['flops_per_second'] or 0) / 1e9:.0f} GFLOP/s, {result['peak_process_memory'] / 2**20:.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
