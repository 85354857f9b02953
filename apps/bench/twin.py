"""What the PyTorch twins share: durations and learning rates of a recipe, the training loop, the comparison with the run.

A twin is an object with
    model, optimizer    torch's
    epoch, sample_size  samples in an epoch; tokens (1 for a picture) in a sample, the unit of the run's rate
    loss(first, count)  mean loss of the samples numbered first .. first + count - 1 of the run
"""

import argparse
import json
import math
import pathlib
import statistics
import sys
import time

import torch


def refuse_unless(condition, what):
    if not condition:
        sys.exit(f"twin: {what}")


def steps_of(duration, steps_per_epoch, tokens_per_step, run_steps):
    for unit, per in (("st", 1), ("ep", steps_per_epoch), ("tok", 1 / tokens_per_step), ("run", run_steps)):
        if duration.endswith(unit):
            value = float(duration.removesuffix(unit)) * per
            return max(1, math.floor(value + 0.5)) if value > 0 else 0
    sys.exit(f"twin: unknown duration {duration}")


def learning_rate(s, peak, t, warmup, total):
    if t < warmup:
        return peak * (t + 1) / (warmup + 1)
    f, u = s["final_factor"], min(1.0, (t - warmup) / max(1, total - warmup))
    return peak * {"constant": 1.0, "cosine": f + (1 - f) * 0.5 * (1 + math.cos(math.pi * u)), "linear": 1 - (1 - f) * u}[s["name"]]


def refuse_uncovered(recipe):
    """What no twin does: it would compare two different trainings."""
    o, s = recipe["optim"], recipe["schedule"]
    refuse_unless(recipe["precision"] == "f32", f"the run is in {recipe['precision']}; expected precision=f32")
    refuse_unless(recipe["plan"]["name"] == "plain", "expected the plain plan")
    refuse_unless(o["name"] == "adamw" and o["bias_correction"] and o["layer_decay"] == 1, "expected optim.name=adamw with bias correction, layer_decay=1")
    refuse_unless(s["name"] in ("constant", "cosine", "linear"), f"schedule {s['name']} is not covered")
    plain = s["unit"] == "step" and not (s["warmup_to_peak"] or s["warmup_start"] or s["decay_from_start"])
    refuse_unless(plain, "expected schedule.unit=step and the default warm-up")
    refuse_unless(not recipe["init"]["from"] and recipe["init"]["trains"] == "all", "expected a run from random weights that trains all of them")
    refuse_unless(recipe["data"]["holdout"] == 0, "expected data.holdout=0")


def train(twin, recipe, steps, out):
    o, s, size = recipe["optim"], recipe["schedule"], recipe["batch"]["size"]
    per_epoch, per_step = twin.epoch / size, twin.sample_size * size
    total = steps_of(recipe["duration"], per_epoch, per_step, 0)
    warmup = steps_of(s["warmup"], per_epoch, per_step, total)
    micro = recipe["batch"]["micro"] or size
    records = []
    twin.model.train()
    for t in range(min(steps, total)):
        begin = time.perf_counter()
        lr = learning_rate(s, o["lr"], t, warmup, total)
        for group in twin.optimizer.param_groups:
            group["lr"] = lr
        loss = 0.0
        for piece in range(size // micro):
            l = twin.loss(t * size + piece * micro, micro) * (micro / size)
            l.backward()
            loss += l.item()
        norm = torch.nn.utils.clip_grad_norm_(twin.model.parameters(), o["clip"] if o["clip"] > 0 else math.inf).item()
        twin.optimizer.step()
        twin.optimizer.zero_grad(set_to_none=False)
        records.append({"step": t + 1, "loss": loss, "lr": lr, "grad_norm": norm, "seconds": time.perf_counter() - begin})
        out.write(json.dumps(records[-1]) + "\n")
        out.flush()
        if t % 20 == 0:
            print(f"step {t + 1}/{min(steps, total)} loss {loss:.4f} {records[-1]['seconds'] * 1e3:.0f} ms", file=sys.stderr)
    return records, per_step


def compare(records, metrics, per_step):
    ours = {m["step"]: m for m in map(json.loads, metrics.read_text().splitlines()) if m["event"] == "step"}
    pairs = [(r, ours[r["step"]]) for r in records if r["step"] in ours]
    refuse_unless(pairs, "the run has no steps to compare with yet")
    gap = lambda field, rows: max(rows, key=lambda p: abs(p[0][field] - p[1][field]))
    early = [p for p in pairs if p[0]["step"] <= 200]
    worst, last = gap("loss", early), pairs[-1]
    mine = [per_step / p[1]["rate"] for p in pairs]
    theirs = [p[0]["seconds"] for p in pairs]
    return {
        "steps": len(pairs),
        "largest_gap_first_200": abs(worst[0]["loss"] - worst[1]["loss"]),
        "largest_gap_at_step": worst[0]["step"],
        "last_step": last[0]["step"],
        "last_loss": [last[1]["loss"], last[0]["loss"]],
        "last_gap": abs(last[0]["loss"] - last[1]["loss"]),
        "largest_gap": abs((w := gap("loss", pairs))[0]["loss"] - w[1]["loss"]),
        "largest_lr_gap": abs((w := gap("lr", pairs))[0]["lr"] - w[1]["lr"]),
        "largest_grad_norm_gap_first_200": abs((w := gap("grad_norm", early))[0]["grad_norm"] - w[1]["grad_norm"]),
        "median_step_seconds": {"accrete": statistics.median(mine), "pytorch": statistics.median(theirs)},
        "total_step_seconds": {"accrete": sum(mine), "pytorch": sum(theirs)},
    }


def adamw(o, decayed, plain):
    groups = [{"params": decayed, "weight_decay": o["weight_decay"]}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"])


def main(doc, make_twin):
    """make_twin(recipe) refuses what it does not cover and returns the twin."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, help="run folder of the trainer")
    parser.add_argument("--steps", type=int, default=1000, help="steps of the twin (default: 1000, or the whole run)")
    parser.add_argument("--data", help="folder of the data (default: as in the run's configuration)")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: those of the run)")
    parser.add_argument("--out", type=pathlib.Path, help="losses of the twin, JSON lines (default: RUN/twin.jsonl)")
    args = parser.parse_args()

    refuse_unless((args.run / "config.json").is_file(), f"expected a run folder with config.json; got {args.run}")
    config = json.loads((args.run / "config.json").read_text())
    recipe = config["recipe"]
    if args.data:
        recipe["data"]["path"] = args.data
    refuse_uncovered(recipe)
    torch.set_num_threads(args.threads or config["threads"])
    with open(args.out or args.run / "twin.jsonl", "w") as out:
        records, per_step = train(make_twin(recipe), recipe, args.steps, out)
    print(json.dumps(compare(records, args.run / "metrics.jsonl", per_step), indent=2))
