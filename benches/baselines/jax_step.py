#!/usr/bin/env python3
"""A training step of Moviola's models in JAX: same numbers, and how the times compare on the same cores.

    python benches/baselines/jax_step.py --moviola target/release/moviola --model token-interaction

Runs `moviola bench step --dump` once, builds the model in JAX (jax_models.py, jax_cba.py) from what was written,
compares the loss, its terms and every gradient, then the losses of some steps, and last times both programs in turns (A B A B ...), so that whatever else
the machine does meets both. Tokens are padded to [N, L, D] and [N, T, D], as is usual in JAX.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

import jax_cba
from jax_cba import cba
from jax_models import mean_pool, token_interaction

# How far the input of a ReLU may be from 0 by rounding: 30 units in the last place of its usual size, 0.04.
KINK = 1e-7
MODELS = {"mean-pool": mean_pool, "token-interaction": token_interaction, "cba": cba}


def make_loss(config):
    """(Sum of the terms, each term by name) of parameters and a batch."""
    model = MODELS[config["model"]]
    if config["model"] == "cba":
        jax_cba.check(config)

    def loss(params, batch):
        terms = model(params, batch, config)
        return sum(weight * value for weight, value in terms.values()), {name: x for name, (_, x) in terms.items()}

    return loss


def make_step(loss, meta):
    beta1, beta2, eps = meta["beta1"], meta["beta2"], meta["eps"]
    rate, decay, decayed = meta["learning_rate"], meta["weight_decay"], set(meta["decayed"])

    def step(params, m, v, t, batch):
        (value, _), grads = jax.value_and_grad(loss, has_aux=True)(params, batch)
        norm = jnp.sqrt(sum(jnp.sum(g * g) for g in grads.values()))
        clip = jnp.minimum(1.0, meta["max_norm"] / (norm + 1e-6))
        t = t + 1
        correction1, correction2 = 1.0 / (1.0 - beta1**t), 1.0 / (1.0 - beta2**t)
        new_params, new_m, new_v = {}, {}, {}
        for name, p in params.items():
            g = grads[name] * clip
            new_m[name] = beta1 * m[name] + (1.0 - beta1) * g
            new_v[name] = beta2 * v[name] + (1.0 - beta2) * g * g
            update = new_m[name] * correction1 / (jnp.sqrt(new_v[name] * correction2) + eps)
            new = p - rate * meta["rates"][name] * (update + (decay * p if name in decayed else 0.0))
            new_params[name] = jnp.minimum(new, meta["largest_log_scale"]) if name.endswith("log_scale") else new
        return new_params, new_m, new_v, t, value

    return jax.jit(step, donate_argnums=(0, 1, 2, 3))


def padded(tokens, lengths, longest):
    """Packed rows as [N, longest, D] with a mask [N, longest]."""
    out = np.zeros((len(lengths), longest, tokens.shape[1]), np.float32)
    mask = np.arange(longest)[None, :] < lengths[:, None]
    out[mask] = tokens
    return out, mask.astype(np.float32)


def load_batch(folder):
    there = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    words, frames = there["words"], there["frames"]
    word_segments, frame_segments = there["word_segments"].astype(int), there["frame_segments"].astype(int)
    last = word_segments[:, 1] - 1
    is_word = np.ones(len(words), bool)
    is_word[last] = False
    lengths, frame_lengths = last - word_segments[:, 0], np.diff(frame_segments, axis=1)[:, 0]
    batch = {"sentence": words[last]}
    batch["words"], batch["word_mask"] = padded(words[is_word], lengths, lengths.max())
    batch["frames"], batch["frame_mask"] = padded(frames, frame_lengths, frame_lengths.max())
    batch["video_key"], batch["caption_key"] = there["video_key"][:, 0], there["caption_key"][:, 0]
    if "word_places" in there:
        batch["word_places"] = padded(there["word_places"][is_word], lengths, lengths.max())[0]
        batch["frame_times"] = padded(there["frame_times"], frame_lengths, frame_lengths.max())[0]
    if "donor_video" in there:
        batch["donor_video"] = there["donor_video"][:, 0].astype(np.int32)
    if "perturbed_first" in there:
        add_perturbed(batch, there, frame_segments)
    return batch


def add_perturbed(batch, there, frame_segments):
    """Each token of a perturbed video as its weights for the frames: `perturbed_mix [M, S, T]`."""
    segments = there["perturbed_segments"].astype(int)
    lengths = np.diff(segments, axis=1)[:, 0]
    mix = np.zeros((len(segments), lengths.max(), batch["frames"].shape[1]), np.float32)
    weight = there["perturbed_weight"][:, 0]
    ends = [("perturbed_first", 1.0 - weight), ("perturbed_second", weight)]
    for v, ((begin, end), (first_frame, _)) in enumerate(zip(segments, frame_segments)):
        for name, share in ends:
            np.add.at(mix[v], (np.arange(end - begin), there[name][begin:end, 0] - first_frame), share[begin:end])
    batch["perturbed_mix"] = mix
    batch["perturbed_mask"] = (np.arange(lengths.max())[None, :] < lengths[:, None]).astype(np.float32)
    if "perturbed_times" in there:
        batch["perturbed_times"] = padded(there["perturbed_times"], lengths, lengths.max())[0]


def relative(a, b, floor=1e-12):
    """Largest difference as a share of the largest value."""
    return float(np.max(np.abs(np.asarray(a) - b)) / max(np.max(np.abs(b)), floor))


def nearest(candidates, b):
    """Of several arrays, element by element, what is nearest to b."""
    candidates = np.stack([np.asarray(c) for c in candidates])
    return np.take_along_axis(candidates, np.abs(candidates - b).argmin(axis=0)[None], axis=0)[0]


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Jax:
    """The step in JAX, from the initial state."""

    def __init__(self, folder, meta, batch):
        self.loss = make_loss(meta["config"])
        self.step = make_step(self.loss, meta)
        self.params = load_file(folder / "params.safetensors")
        self.batch = batch
        self.restart()

    def restart(self):
        self.state = (
            {k: jnp.array(p) for k, p in self.params.items()},
            {k: jnp.zeros(p.shape) for k, p in self.params.items()},
            {k: jnp.zeros(p.shape) for k, p in self.params.items()},
            jnp.zeros(()),
        )

    def gradient(self, shift=0.0):
        """The loss, its terms and its gradient, with the inputs of every ReLU moved by `shift`."""
        params = {k: p + np.float32(shift) if k.endswith(".hidden.bias") else p for k, p in self.params.items()}
        (value, terms), grads = jax.jit(jax.value_and_grad(self.loss, has_aux=True))(params, self.batch)
        return float(value), {k: float(x) for k, x in terms.items()}, {k: np.asarray(g) for k, g in grads.items()}

    def run(self, steps):
        """Seconds, core seconds and losses of some steps; the batch travels to the device each time."""
        times, busy, losses = [], [], []
        for _ in range(steps):
            begun, worked = time.perf_counter(), cpu_seconds()
            *state, loss = self.step(*self.state, self.batch)
            losses.append(float(jax.block_until_ready(loss)))
            jax.block_until_ready(state)
            times.append(time.perf_counter() - begun)
            busy.append(cpu_seconds() - worked)
            self.state = tuple(state)
        return times, busy, losses


def moviola(options, steps, dump=None):
    command = [options.moviola, "bench", "step", "--device", "cpu", "--quiet", "--json", "--steps", str(steps)]
    for name in ["model", "batch", "words", "frames", "dim", "threads"]:
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--ragged"] if options.ragged else []
    command += [f"--set={setting}" for setting in options.settings]
    command += ["--dump", str(dump)] if dump else []
    ran = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(ran.stdout)


def compare(options, folder):
    first = moviola(options, 5, folder)
    meta = json.loads((folder / "meta.json").read_text())
    ours = Jax(folder, meta, load_batch(folder))
    loss, terms, grads = ours.gradient()
    # Of a million inputs of a ReLU some are 0 but for rounding, and two programs may take either side of the kink.
    sides = [grads, *(ours.gradient(shift)[2] for shift in (-KINK, KINK))]
    reference = load_file(folder / "gradient.safetensors")
    # The bias behind a soft-max has no gradient but rounding, which is measured against that of other parameters.
    floor = 1e-2 * max(float(np.max(np.abs(g))) for g in grads.values())
    errors = {n: relative(reference[n], nearest([g[n] for g in sides], reference[n]), floor) for n in sorted(grads)}
    errors["loss"] = abs(loss - meta["loss"]) / abs(loss)
    # A term as a share of the loss: some are differences that nearly cancel.
    errors |= {f"term {name}": abs(terms[name] - x) / abs(loss) for name, x in meta["terms"].items() if name in terms}
    losses = first["losses"]
    errors["losses of steps"] = relative(losses, np.array(ours.run(len(losses))[2], np.float32))
    return ours, errors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moviola", default="target/release/moviola", help="the program to compare with")
    parser.add_argument("--model", default="token-interaction", choices=sorted(MODELS))
    for name, default in [("batch", 128), ("words", 32), ("frames", 12), ("dim", 512), ("steps", 10), ("rounds", 5)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=0, help="of Moviola; 0 means all cores, which JAX takes")
    parser.add_argument("--ragged", action="store_true", help="random lengths; JAX pads them")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE",
                        help="a setting of the model, e.g. trunk.layers=0")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest relative difference of a gradient")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.moviola = os.path.abspath(options.moviola)

    with tempfile.TemporaryDirectory() as folder:
        other, errors = compare(options, Path(folder))
    # Not `>`: a NaN must fail.
    wrong = {name: e for name, e in errors.items() if not e <= options.tolerance}
    if wrong:
        sys.exit(f"the two programs disagree: {wrong}")
    theirs, ratios, cpu_ratios, mine, busy = [], [], [], [], {"moviola": [], "jax": []}
    for _ in range(options.rounds):
        ran = moviola(options, options.steps)
        times, worked, _ = other.run(options.steps)
        mine.append(ran["seconds"])
        theirs.append(statistics.median(times))
        ratios.append(mine[-1] / theirs[-1])
        if "cpu_seconds" in ran:
            busy["moviola"].append(ran["cpu_seconds"])
            busy["jax"].append(statistics.fmean(worked))
            cpu_ratios.append(busy["moviola"][-1] / busy["jax"][-1])
    middle = lambda x: statistics.median(x) if x else None
    result = {
        "model": options.model,
        "batch": options.batch, "words": options.words, "frames": options.frames, "dim": options.dim,
        "ragged": options.ragged, "settings": options.settings,
        "cores": os.cpu_count(), "jax": jax.__version__, "numpy": np.__version__,
        "moviola_seconds": middle(mine), "jax_seconds": middle(theirs), "ratio": middle(ratios), "ratios": ratios,
        "moviola_cpu_seconds": middle(busy["moviola"]), "jax_cpu_seconds": middle(busy["jax"]),
        "cpu_ratio": middle(cpu_ratios),
        "largest_relative_difference": max(errors.values()), "differences": errors,
    }
    if options.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{options.model}: Moviola {1e3 * middle(mine):.1f} ms, JAX {1e3 * middle(theirs):.1f} ms a step, ratio {middle(ratios):.2f} "
          f"(rounds {', '.join(f'{r:.2f}' for r in ratios)}); core time ratio {middle(cpu_ratios) or float('nan'):.2f}")
    print(f"largest relative difference of loss and gradients {max(errors.values()):.1e}")


if __name__ == "__main__":
    main()
