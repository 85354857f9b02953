#!/usr/bin/env python3
"""Training steps of Accrete and of PyTorch in turn (ours, theirs, ours, theirs) on a GPU, and their table.

    python3 apps/bench/device_bench.py [NAME ...] [--out FOLDER] [--limit SECONDS]

Names: those of WORKLOADS below, "ops" (memory-bound and matrix ops against the ceilings), "gemm" and "ladder"; default:
all but gpt2-124m-autotune and gpt2-1.5b, which take minutes to compile in PyTorch. Every run is a process of its own; each round runs ours and every
peer once. Into FOLDER go bench.jsonl (every run as printed), bench.md (the tables) and one log per run. Caches (plans of
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
SMALL = {"depth": 6, "embed-dim": 384, "num-heads": 6, "vocab": 8192, "batch": 16, "length": 256}
# sizes: of both sides. peers: name -> arguments, ratio that is the floor, and that is aimed at.
WORKLOADS = {
    "gpt2-124m": {
        "sizes": {"model": "gpt2", "vocab": 50304, "batch": 64, "length": 1024},
        "peers": {"compile": (["--compile"], 1.2, 1.4)},
    },
    "small-384": {
        "sizes": {"model": "gpt2"} | SMALL,
        "peers": {"eager": ([], 1.5, 2.5), "reduce-overhead": (["--compile", "--mode", "reduce-overhead"], 1.15, 1.4)},
    },
    "gpt2-4k": {
        "sizes": {"model": "gpt2", "vocab": 50304, "batch": 4, "length": 1024},
        "peers": {"eager": ([], 1.5, 2.5), "reduce-overhead": (["--compile", "--mode", "reduce-overhead"], 1.15, 1.4)},
    },
    "gpt2-124m-autotune": {
        "sizes": {"model": "gpt2", "vocab": 50304, "batch": 64, "length": 1024},
        "peers": {"max-autotune": (["--compile", "--mode", "max-autotune"], 1.2, 1.4),
                  "pure bf16": (["--compile", "--precision", "pure-bf16"], 0, 0)},
    },
    "gpt2-1.5b": {
        "sizes": {"model": "gpt2-xl", "vocab": 50304, "batch": 16, "length": 1024},
        "peers": {"compile": (["--compile"], 1.08, 1.2)},
    },
}  # fmt: skip
OTHERS = ["ops", "gemm", "ladder"]
DEFAULT = ["gpt2-124m", "ops", "small-384", "gpt2-4k", "gemm", "ladder"]
OPS = ["layernorm", "cross_entropy", "attention", "linear", "dropout", "embedding"]
TINY = {"depth": 2, "embed-dim": 32, "num-heads": 2, "vocab": 101, "batch": 2, "length": 16}
START_TARGET, MEMORY_TARGET, LAYERNORM_TARGET = (5, 20), (0.85, 0.65), (0.70, 0.85)


class Bench:
    def __init__(self, args):
        self.args, self.out = args, args.out
        self.end = time.monotonic() + args.limit
        self.failures, self.tables, self.ceilings = [], [], None
        shutil.rmtree(self.out / "caches", ignore_errors=True)
        (self.out / "caches").mkdir(parents=True, exist_ok=True)
        self.env = os.environ | {"ACCRETE_CACHE": str(self.out / "caches/accrete"),
                                 "TORCHINDUCTOR_CACHE_DIR": str(self.out / "caches/inductor"),
                                 "TRITON_CACHE_DIR": str(self.out / "caches/triton")}  # fmt: skip
        self.lines = open(self.out / "bench.jsonl", "w")

    def run(self, name, command):
        """The JSON that a command prints; None when it fails, which is noted."""
        left = self.end - time.monotonic()
        log = self.out / f"{name.replace(' ', '-')}.log"
        if left < 5:
            self.failures.append(f"{name}: not run, the time is up")
            return None
        print(f"== {name}", file=sys.stderr, flush=True)
        began, begun = time.monotonic(), time.time()
        try:
            with open(log, "w") as err:
                err.write(" ".join(map(str, command)) + "\n")
                err.flush()
                done = subprocess.run(command, stdout=subprocess.PIPE, stderr=err, timeout=left, text=True, env=self.env)
            result = json.loads(done.stdout) if done.returncode == 0 else None
            why = f"exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            result, why = None, "the time is up"
        except (OSError, json.JSONDecodeError) as e:
            result, why = None, str(e)
        if result is None:
            tail = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
            self.failures.append(f"{name}: {why}: {' '.join(tail)[:300]}")
            return None
        if "tenth_step_at" in result:
            result["seconds_to_tenth_step"] = result["tenth_step_at"] - begun
        self.ceilings = result.get("ceilings", self.ceilings)
        record = {"run": name, "seconds": time.monotonic() - began, "command": [str(c) for c in command], "result": result}
        self.lines.write(json.dumps(record) + "\n")
        self.lines.flush()
        return result

    def steps(self, name):
        args, w = self.args, WORKLOADS[name]
        sizes = w["sizes"] | (TINY if args.tiny else {})
        common = [a for key, value in sizes.items() for a in (f"--{key}", str(value))]
        common += ["--steps", str(args.steps), "--warmup", str(args.warmup), "--device", args.device, "--json"]
        ours, theirs = [], {peer: [] for peer in w["peers"]}
        for turn in range(args.rounds):
            got = self.run(f"{name} accrete {turn}", [args.build / "apps/bench", "step", "--quiet"] + common)
            if got:
                ours.append(got)
            for peer, (arguments, *_) in w["peers"].items():
                got = self.run(f"{name} {peer} {turn}", [args.python, HERE / "peer_step.py"] + common + arguments)
                if got:
                    theirs[peer].append(got)
        self.table_of_steps(name, sizes, ours, theirs)

    def table_of_steps(self, name, sizes, ours, theirs):
        if not ours:
            return
        median = lambda runs, *keys: statistics.median(value(r, keys) for r in runs)
        rate, product = median(ours, "tokens_per_second"), median(ours, "share_of_ceiling")
        lines = [f"### {name}: batch {sizes['batch']} x {sizes['length']}, bf16, {ours[0]['params'] / 1e6:.1f} M parameters", "",
                 "| | ms a step | tokens/s | share of the product ceiling | peak memory | reserved | to the tenth step, cold; warm | ratio | target |",
                 "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
        lines.append(row("Accrete", ours, product, "", ""))
        ceiling = median(ours, "flops_per_second") / product if product else 0
        for peer, runs in theirs.items():
            _, floor, aim = WORKLOADS[name]["peers"][peer]
            if not runs:
                lines.append(f"| PyTorch {peer} | failed | | | | | | | {floor} to {aim} |")
                continue
            ratio = rate / median(runs, "tokens_per_second")
            share = median(runs, "flops_per_second") / ceiling if ceiling else 0
            lines.append(row(f"PyTorch {peer}", runs, share, f"{ratio:.2f}x", verdict(ratio, floor, aim)))
            if "peak_memory" in runs[0]:
                part = median(ours, "peak_memory") / median(runs, "peak_memory")
                lines.append(f"| ... memory | | | | {part:.2f} of it | | | | {verdict(part, *MEMORY_TARGET, less=True)} |")
            if peer != "eager" and "seconds_to_tenth_step" in ours[0] and "seconds_to_tenth_step" in runs[0]:
                times = [theirs_s / ours_s for ours_s, theirs_s in
                         ((ours[i]["seconds_to_tenth_step"], runs[i]["seconds_to_tenth_step"]) for i in (0, -1))]  # fmt: skip
                lines.append(f"| ... start | | | | | | {times[0]:.1f}x; {times[1]:.1f}x | | {verdict(times[0], *START_TARGET)} |")
        obstacle = ours[0].get("not_recorded_because")
        if obstacle:
            lines += ["", f"Launches were not recorded: {obstacle}"]
        if ours[0]["allocations_after_warmup"]:
            lines += ["", f"Memory does not stand still: {ours[0]['allocations_after_warmup']} allocations after the warm-up"]
        self.tables += lines + [""]

    def ops(self):
        args = self.args
        lines = ["### ops, bf16: share of the ceiling that bounds each", "", "| op | forward us | share | backward us | share | target |", "|---|---|---|---|---|---|"]
        for only in OPS[: 1 if args.tiny else None]:
            got = self.run(f"ops {only}", [args.build / "apps/bench", "ops", "--only", only, "--seconds", "0.05", "--device",
                                           args.device, "--json", "--quiet"])  # fmt: skip
            for r in got["ops"] if got else []:
                if r["dtype"] != "bf16":
                    continue
                f, b = r["forward"], r.get("backward")
                back = f"{b['seconds'] * 1e6:.0f} | {b['share_of_ceiling']:.0%} ({b['bound']})" if b else "|"
                target = verdict(b["share_of_ceiling"], *LAYERNORM_TARGET) if r["op"] == "layernorm" and b else ""
                lines.append(f"| {r['op']} | {f['seconds'] * 1e6:.0f} | {f['share_of_ceiling']:.0%} ({f['bound']}) | {back} | {target} |")
        self.tables += lines + [""]

    def gemm(self):
        args = self.args
        size = ["--tokens", "64", "--embed-dim", "32", "--vocab", "100"] if args.tiny else ["--tokens", "65536", "--vocab", "50304"]
        got = self.run("gemm", [args.build / "apps/bench", "gemm", "--seconds", "0.05", "--device", args.device, "--json", "--quiet"] + size)
        if not got:
            return
        lines = ["### products of GPT-2 124M, bf16", "", "| layer | | M x N x K | us | share of the product ceiling |", "|---|---|---|---|---|"]
        for p in got["products"]:
            if p["dtype"] == "bf16":
                lines.append(f"| {p['layer']} | {p['product']} | {p['m']} x {p['n']} x {p['k']} | {p['seconds']['median'] * 1e6:.0f} | {p['share_of_ceiling']:.0%} |")
        self.tables += lines + [""]

    def ladder(self):
        if self.args.device != "cuda":
            return  # timed on GPUs only
        got = self.run("ladder", [self.args.build / "apps/bench", "ladder", "--seconds", "0.05", "--json", "--quiet"])
        lines = ["### the ladder", "", "| kernel | step | | us | GB/s that had to move | GFLOP/s |", "|---|---|---|---|---|---|"]
        for s in got["steps"] if got else []:
            lines.append(f"| {s['ladder']} | {s['step']} | {s['title']} | {s['seconds'] * 1e6:.1f} | {s['useful_bytes_per_second'] / 1e9:.0f} | "
                         f"{s['flops_per_second'] / 1e9:.0f} |")  # fmt: skip
        self.tables += lines + [""]

    def finish(self):
        if self.failures:
            self.tables += ["Failed or not run:", ""] + [f"- {f}" for f in self.failures] + [""]
        if self.ceilings:
            self.tables.insert(0, ceilings_line(self.ceilings) + "\n")
        text = "\n".join(self.tables)
        (self.out / "bench.md").write_text(text + "\n")
        shutil.rmtree(self.out / "caches", ignore_errors=True)
        print(text)
        return 1 if self.failures else 0


def value(result, keys):
    for key in keys:
        result = result[key]
    return result


def row(who, runs, share, ratio, target):
    ms = statistics.median(r["step_seconds"]["median"] for r in runs) * 1e3
    rate = statistics.median(r["tokens_per_second"] for r in runs)
    gib = lambda key: f"{statistics.median(r[key] for r in runs) / 2**30:.2f} GiB" if key in runs[0] else ""
    tenth = [f"{runs[i]['seconds_to_tenth_step']:.1f} s" for i in (0, -1) if "seconds_to_tenth_step" in runs[i]]
    return f"| {who} | {ms:.2f} | {rate:,.0f} | {share:.0%} | {gib('peak_memory')} | {gib('reserved_memory')} | {'; '.join(tenth)} | {ratio} | {target} |"


def verdict(got, floor, aim, less=False):
    """The target and whether it is reached."""
    if not floor:
        return "none"
    reached = (lambda goal: got <= goal) if less else (lambda goal: got >= goal)
    return f"{floor:g} to {aim:g}: " + ("aim reached" if reached(aim) else "floor reached" if reached(floor) else "missed")


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
    for name in names:
        if name in OTHERS:
            getattr(bench, name)()
        else:
            bench.steps(name)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
