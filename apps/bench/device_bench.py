#!/usr/bin/env python3
"""Training steps of Accrete and of PyTorch in turn (ours, theirs, ours, theirs) on a GPU, and their table.

    python3 apps/bench/device_bench.py [NAME ...] [--out FOLDER] [--limit SECONDS]

Names: those of WORKLOADS below, "ops" (memory-bound and matrix ops against the ceilings), "gemm" and "ladder"; default:
those of DEFAULT, in that order. The others take minutes to compile in PyTorch. Every run is a process of its own. A round
runs ours and every peer of each workload once; the next one repeats them, so that a limit that comes early costs repeats
before it costs workloads. What it leaves no time for is "skipped (time)", which is no failure.
Into FOLDER go bench.jsonl (every run as printed), bench.md (the tables) and one log per run. Caches (plans of
products, compiled code of PyTorch) are kept in FOLDER too, so the first round starts cold and later ones warm.
Exit code 1 when a run failed. --device cpu --tiny tries the whole machinery on a machine without a GPU.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
# Of both sides. Large: batches that fill an H200; the ratio that is the floor, and that is aimed at, against PyTorch.
LARGE = {
    "gpt2-124m": ({"model": "gpt2", "vocab": 50304, "batch": 64, "length": 1024}, 1.2, 1.4),
    "vit-b16-224": ({"model": "vit-base", "batch": 256, "resolution": 224}, 1.3, 1.6),
    "deit-s-224": ({"model": "deit-small", "batch": 512, "resolution": 224}, 1.4, 1.8),
    "gpt2-1.5b": ({"model": "gpt2-xl", "vocab": 50304, "batch": 16, "length": 1024}, 1.08, 1.2),
}
SMALL = {
    "small-384": {"model": "gpt2", "depth": 6, "embed-dim": 384, "num-heads": 6, "vocab": 8192, "batch": 16, "length": 256},
    "gpt2-4k": {"model": "gpt2", "vocab": 50304, "batch": 4, "length": 1024},
}
# name -> sizes, {peer: arguments, floor, aim}
WORKLOADS = {}
for name, (sizes, *wanted) in LARGE.items():
    WORKLOADS[name] = sizes, {"compile": (["--compile"], *wanted)}
    WORKLOADS[name + "-autotune"] = sizes, {"max-autotune": (["--compile", "--mode", "max-autotune"], *wanted),
                                            "pure-bf16": (["--compile", "--precision", "pure-bf16"], 0, 0)}  # fmt: skip
for name, sizes in SMALL.items():
    WORKLOADS[name] = sizes, {"eager": ([], 1.5, 2.5),
                              "reduce-overhead": (["--compile", "--mode", "reduce-overhead"], 1.15, 1.4)}  # fmt: skip
OTHERS = ["ops", "gemm", "ladder"]
DEFAULT = ["gpt2-124m", "vit-b16-224", "deit-s-224", "ops", "small-384", "gpt2-4k", "gemm", "ladder"]
OPS = ["layernorm", "cross_entropy", "attention", "linear", "dropout", "embedding"]
TINY = {"depth": 2, "embed-dim": 32, "num-heads": 2, "batch": 2}
TINY_OF = {"length": {"vocab": 101, "length": 16}, "resolution": {"patch": 8, "classes": 10, "resolution": 32}}
PATIENCE = 120  # seconds for a run of ours, which takes far less: beyond that it hangs
START_TARGET, MEMORY_TARGET, LAYERNORM_TARGET = (5, 20), (0.85, 0.65), (0.70, 0.85)


class Bench:
    def __init__(self, args):
        self.args, self.out = args, args.out
        self.end = time.monotonic() + args.limit
        self.failures, self.skipped, self.sections, self.ceilings = [], [], {}, None
        self.runs, self.took, self.why_not = {}, {}, {}  # name -> who -> results; (name, who) -> seconds, reason
        shutil.rmtree(self.out / "caches", ignore_errors=True)
        (self.out / "caches").mkdir(parents=True, exist_ok=True)
        self.env = os.environ | {"ACCRETE_CACHE": str(self.out / "caches/accrete"),
                                 "TORCHINDUCTOR_CACHE_DIR": str(self.out / "caches/inductor"),
                                 "TRITON_CACHE_DIR": str(self.out / "caches/triton")}  # fmt: skip
        self.lines = open(self.out / "bench.jsonl", "w")

    def run(self, name, who, command, turn=0):
        """The JSON that a command prints; None when it fails or when no time is left for it, which is noted."""
        key, run = (name, who), " ".join(filter(None, (name, who, str(turn))))
        left = self.end - time.monotonic()
        if left < self.took.get(key, 5):
            return self.skip(key, turn)
        print(f"== {run}", file=sys.stderr, flush=True)
        log, began, begun = self.out / f"{run.replace(' ', '-')}.log", time.monotonic(), time.time()
        patience = PATIENCE if command[0] == self.program else left
        try:
            with open(log, "w") as err:
                err.write(" ".join(map(str, command)) + "\n")
                err.flush()
                done = subprocess.run(command, stdout=subprocess.PIPE, stderr=err, timeout=min(left, patience), text=True, env=self.env)
            result = json.loads(done.stdout) if done.returncode == 0 else None
            why = f"exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            if left <= patience:
                return self.skip(key, turn)
            result, why = None, f"not finished after {patience} s"
        except (OSError, json.JSONDecodeError) as e:
            result, why = None, str(e)
        if result is None:
            tail = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
            self.failures.append(f"{run}: {why}: {' '.join(tail)[:300]}")
            self.why_not[key] = "failed"
            return None
        if "tenth_step_at" in result:
            result["seconds_to_tenth_step"] = result["tenth_step_at"] - begun
        self.ceilings = result.get("ceilings", self.ceilings)
        self.took[key] = time.monotonic() - began
        record = {"run": run, "seconds": self.took[key], "command": [str(c) for c in command], "result": result}
        self.lines.write(json.dumps(record) + "\n")
        self.lines.flush()
        return result

    def skip(self, key, turn):
        self.why_not[key] = "skipped (time)"
        what = " ".join(part for part in key if part not in ("", "accrete"))
        self.skipped.append(what + (f" (round {turn + 1})" if turn else ""))

    @property
    def program(self):
        return self.args.build / "apps/bench"

    def steps(self, name, turn):
        args, (sizes, peers) = self.args, WORKLOADS[name]
        if args.tiny:
            sizes = sizes | TINY | next(more for key, more in TINY_OF.items() if key in sizes)
        common = [a for key, value in sizes.items() for a in (f"--{key}", str(value))]
        common += ["--steps", str(args.steps), "--warmup", str(args.warmup), "--device", args.device, "--json"]
        commands = {"accrete": [self.program, "step", "--quiet"] + common}
        commands |= {peer: [args.python, HERE / "peer_step.py"] + common + arguments for peer, (arguments, *_) in peers.items()}
        runs = self.runs.setdefault(name, {who: [] for who in commands})
        if turn and not runs["accrete"]:
            return
        for who, command in commands.items():
            got = self.run(name, who, command, turn)
            if got:
                runs[who].append(got)
            elif who == "accrete":
                break  # nothing to compare with
        if runs["accrete"]:
            self.sections[name] = self.table_of_steps(name, sizes, peers, runs)
        else:
            self.sections[name] = [f"### {name}: {self.why_not[name, 'accrete']}"]

    def table_of_steps(self, name, sizes, peers, runs):
        ours = runs["accrete"]
        product, ours_rate = median(ours, "share_of_ceiling"), median(ours, rate_of(ours[0]))
        ceiling = median(ours, "flops_per_second") / product if product else 0
        size = f"{sizes['resolution']} px" if "resolution" in sizes else sizes["length"]
        lines = [f"### {name}: batch {sizes['batch']} x {size}, bf16, {ours[0]['params'] / 1e6:.1f} M parameters", "",
                 f"| | ms a step | {rate_of(ours[0]).split('_')[0]}/s | share of the product ceiling | peak memory | reserved | "
                 "to the tenth step, cold; warm | ratio | target |", "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
        lines.append(row("Accrete", ours, product, "", ""))
        for peer, (_, floor, aim) in peers.items():
            theirs = runs[peer]
            if not theirs:
                lines.append(f"| PyTorch {peer} | {self.why_not.get((name, peer), 'skipped (time)')} | | | | | | | {goal(floor, aim)} |")
                continue
            ratio = ours_rate / median(theirs, rate_of(theirs[0]))
            share = median(theirs, "flops_per_second") / ceiling if ceiling else 0
            lines.append(row(f"PyTorch {peer}", theirs, share, f"{ratio:.2f}x", verdict(ratio, floor, aim)))
            if "peak_memory" in theirs[0]:
                part = median(ours, "peak_memory") / median(theirs, "peak_memory")
                lines.append(f"| ... memory | | | | {part:.2f} of it | | | | {verdict(part, *MEMORY_TARGET, less=True)} |")
            starts = [b["seconds_to_tenth_step"] / a["seconds_to_tenth_step"] for a, b in zip(ends(ours), ends(theirs))
                      if "seconds_to_tenth_step" in a and "seconds_to_tenth_step" in b]  # fmt: skip
            if peer != "eager" and starts:
                lines.append(f"| ... start | | | | | | {'; '.join(f'{t:.1f}x' for t in starts)} | | {verdict(starts[0], *START_TARGET)} |")
        obstacle = ours[0].get("not_recorded_because")
        if obstacle:
            lines += ["", f"Launches were not recorded: {obstacle}"]
        if ours[0]["allocations_after_warmup"]:
            lines += ["", f"Memory does not stand still: {ours[0]['allocations_after_warmup']} allocations after the warm-up"]
        return lines

    def ops(self):
        args = self.args
        lines = []
        for only in OPS[: 1 if args.tiny else None]:
            got = self.run("ops", only, [self.program, "ops", "--only", only, "--seconds", "0.05", "--device", args.device, "--json", "--quiet"])
            for r in got["ops"] if got else []:
                if r["dtype"] != "bf16":
                    continue
                f, b = r["forward"], r.get("backward")
                back = f"{b['seconds'] * 1e6:.0f} | {b['share_of_ceiling']:.0%} ({b['bound']})" if b else "|"
                target = verdict(b["share_of_ceiling"], *LAYERNORM_TARGET) if r["op"] == "layernorm" and b else ""
                lines.append(f"| {r['op']} | {f['seconds'] * 1e6:.0f} | {f['share_of_ceiling']:.0%} ({f['bound']}) | {back} | {target} |")
        if lines:
            self.sections["ops"] = ["### ops, bf16: share of the ceiling that bounds each", "",
                                    "| op | forward us | share | backward us | share | target |", "|---|---|---|---|---|---|"] + lines  # fmt: skip

    def gemm(self):
        args = self.args
        size = ["--tokens", "64", "--embed-dim", "32", "--vocab", "100"] if args.tiny else ["--tokens", "65536", "--vocab", "50304"]
        got = self.run("gemm", "", [self.program, "gemm", "--seconds", "0.05", "--device", args.device, "--json", "--quiet"] + size)
        if not got:
            return
        lines = ["### products of GPT-2 124M, bf16", "", "| layer | | M x N x K | us | share of the product ceiling |", "|---|---|---|---|---|"]
        for p in got["products"]:
            if p["dtype"] == "bf16":
                lines.append(f"| {p['layer']} | {p['product']} | {p['m']} x {p['n']} x {p['k']} | {p['seconds']['median'] * 1e6:.0f} | {p['share_of_ceiling']:.0%} |")
        self.sections["gemm"] = lines

    def ladder(self):
        if self.args.device != "cuda":
            return  # timed on GPUs only
        got = self.run("ladder", "", [self.program, "ladder", "--seconds", "0.05", "--json", "--quiet"])
        if not got:
            return
        lines = ["### the ladder", "", "| kernel | step | | us | GB/s that had to move | GFLOP/s |", "|---|---|---|---|---|---|"]
        for s in got["steps"]:
            lines.append(f"| {s['ladder']} | {s['step']} | {s['title']} | {s['seconds'] * 1e6:.1f} | {s['useful_bytes_per_second'] / 1e9:.0f} | "
                         f"{s['flops_per_second'] / 1e9:.0f} |")  # fmt: skip
        self.sections["ladder"] = lines

    def attention(self):
        """Whose attention each shape got, ours or cuDNN's, as the plan file has it (kernels/attention_choice.h)."""
        lines = []
        for line in sorted((self.out / "caches/accrete/gemm_plans.txt").read_text().splitlines()):
            key, _, rest = line.partition(" | ")
            if " attention " in key:
                ours, theirs = (int(rest.rpartition(" algorithm ")[2][at : at + 16], 16) / 10 for at in (32, 48))
                shape = key.partition(" cudnn ")[2]
                lines.append(f"| {shape} | {'cuDNN' if rest.startswith('fused') else 'ours'} | {ours or ''} | {theirs or ''} |")
        if lines:
            self.sections["attention"] = ["### attention, ours or cuDNN's", "", "| cuDNN version, shape | chosen | ours us | cuDNN us |",
                                          "|---|---|---|---|"] + lines  # fmt: skip

    def write(self):
        """The tables so far, so that a bench that is cut short leaves them."""
        text = [ceilings_line(self.ceilings), ""] if self.ceilings else []
        for lines in self.sections.values():
            text += lines + [""]
        if self.skipped:
            text += ["Skipped (time): " + ", ".join(self.skipped), ""]
        if self.failures:
            text += ["Failed:", ""] + [f"- {f}" for f in self.failures] + [""]
        (self.out / "bench.md").write_text("\n".join(text))
        return "\n".join(text)

    def finish(self):
        if (self.out / "caches/accrete/gemm_plans.txt").exists():
            self.attention()
        shutil.rmtree(self.out / "caches", ignore_errors=True)
        print(self.write())
        return 1 if self.failures else 0


def rate_of(result):
    return "images_per_second" if "images_per_second" in result else "tokens_per_second"


def median(runs, key):
    return statistics.median(r[key] for r in runs)


def ends(runs):
    """The first, which began cold, and the last of those that began warm."""
    return runs[:1] + runs[1:][-1:]


def row(who, runs, share, ratio, target):
    ms = statistics.median(r["step_seconds"]["median"] for r in runs) * 1e3
    gib = lambda key: f"{median(runs, key) / 2**30:.2f} GiB" if key in runs[0] else ""
    tenth = "; ".join(f"{r['seconds_to_tenth_step']:.1f} s" for r in ends(runs) if "seconds_to_tenth_step" in r)
    rate = median(runs, rate_of(runs[0]))
    return f"| {who} | {ms:.2f} | {rate:,.0f} | {share:.0%} | {gib('peak_memory')} | {gib('reserved_memory')} | {tenth} | {ratio} | {target} |"


def goal(floor, aim):
    return f"{floor:g} to {aim:g}" if floor else "none"


def verdict(got, floor, aim, less=False):
    """The target and whether it is reached."""
    if not floor:
        return goal(floor, aim)
    reached = (lambda goal: got <= goal) if less else (lambda goal: got >= goal)
    return goal(floor, aim) + ": " + ("aim reached" if reached(aim) else "floor reached" if reached(floor) else "missed")


def ceilings_line(c):
    return (f"Ceilings ({c['device']}): product {c['gemm_bf16_flops_per_second'] / 1e12:.2f} TFLOP/s in bf16, "
            f"{c['gemm_f32_flops_per_second'] / 1e12:.2f} in f32; copy {c['copy_bytes_per_second'] / 1e12:.3f} TB/s")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="workloads: " + ", ".join(list(WORKLOADS) + OTHERS))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--build", type=pathlib.Path, default=HERE.parents[1] / "build", help="build folder")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("device-bench"))
    parser.add_argument("--python", default=sys.executable, help="interpreter with PyTorch")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--warmup", type=int, default=12, help="at least 10, or there is no tenth step to time")
    parser.add_argument("--limit", type=float, default=86400, help="seconds after which nothing more is begun or waited for")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the machinery")
    args = parser.parse_args()
    names = args.names or DEFAULT
    for name in names:
        if name not in list(WORKLOADS) + OTHERS:
            parser.error(f"unknown workload {name}; expected one of {', '.join(list(WORKLOADS) + OTHERS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    args.out, args.build = args.out.resolve(), args.build.resolve()
    bench = Bench(args)
    for turn in range(args.rounds):
        for name in names:
            if name not in OTHERS:
                bench.steps(name, turn)
            elif turn == 0:
                getattr(bench, name)()
            bench.write()
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
