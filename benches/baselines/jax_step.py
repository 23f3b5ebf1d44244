#!/usr/bin/env python3
"""A training step of Moviola's models in JAX: same numbers, and how the times compare on the same cores.

    python benches/baselines/jax_step.py --moviola target/release/moviola --model token-interaction

Runs `moviola bench step --dump` once, builds the model in JAX from what was written, compares the loss and every
gradient, then the losses of some steps, and last times both programs in turns (A B A B ...), so that whatever else
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

FLOOR = -1e30
SHORTEST = 1e-6


def linear(params, name, x):
    return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]


def unit(x):
    """Rows of length one; rows shorter than SHORTEST become 0."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    there = square >= SHORTEST**2
    return jnp.where(there, x * jax.lax.rsqrt(jnp.where(there, square, 1.0)), 0.0)


def mean_pool(params, batch, config):
    del config
    text = unit(linear(params, "text", batch["sentence"]))
    frames = unit(linear(params, "video", batch["frames"]))
    mask = batch["frame_mask"][..., None]
    video = unit(jnp.sum(frames * mask, axis=1) / jnp.sum(mask, axis=1))
    return text @ video.T


def row_weight(params, name, x):
    return linear(params, f"{name}.out", jax.nn.relu(linear(params, f"{name}.hidden", x)))[..., 0]


def token_interaction(params, batch, config):
    tau, relevance_tau = config["temperature"], config["relevance_temperature"]
    words = unit(linear(params, "text", batch["words"]))  # [N, L, D]
    sentence = unit(linear(params, "text", batch["sentence"]))  # [N, D]
    frames = unit(linear(params, "video", batch["frames"]))  # [M, T, D]
    word_logits = jnp.where(batch["word_mask"] > 0, row_weight(params, "word_weight", words), FLOOR)
    log_omega = jax.nn.log_softmax(word_logits, axis=1)[:, :, None, None]  # [N, L, 1, 1]
    bias = jnp.where(batch["frame_mask"] > 0, row_weight(params, "frame_weight", frames), FLOOR)  # [M, T]

    (n, length, dim), (m, t, _) = words.shape, frames.shape
    flat = frames.reshape(m * t, dim)
    c = (words.reshape(n * length, dim) @ flat.T).reshape(n, length, m, t)
    log_rho = jax.nn.log_softmax((sentence @ flat.T).reshape(n, m, t) / relevance_tau + bias, axis=-1)  # [N, M, T]
    over_frames = jax.nn.softmax(c / tau + log_rho[:, None], axis=3)
    t2v = jnp.sum(jnp.exp(log_omega[..., 0]) * jnp.sum(over_frames * c, axis=3), axis=1)
    over_words = jax.nn.softmax(c / tau + log_omega, axis=1)
    v2t = jnp.sum(jnp.exp(log_rho) * jnp.sum(over_words * c, axis=1), axis=2)
    return 0.5 * (t2v + v2t)


SCORES = {"mean-pool": mean_pool, "token-interaction": token_interaction}


def make_loss(config):
    scores = SCORES[config["model"]]

    def loss(params, batch):
        z = jnp.exp(params["log_scale"][0]) * scores(params, batch, config)
        n = z.shape[0]
        same = lambda key: key[:, None] == key[None, :]
        left_out = (same(batch["video_key"]) | same(batch["caption_key"])) & ~jnp.eye(n, dtype=bool)
        z = jnp.where(left_out, FLOOR, z)
        rows, columns = jax.nn.logsumexp(z, axis=1), jax.nn.logsumexp(z, axis=0)
        return jnp.mean(rows + columns - 2.0 * jnp.diagonal(z)) / 2.0

    return loss


def make_step(loss, meta):
    beta1, beta2, eps = meta["beta1"], meta["beta2"], meta["eps"]
    rate, decay, decayed = meta["learning_rate"], meta["weight_decay"], set(meta["decayed"])

    def step(params, m, v, t, batch):
        value, grads = jax.value_and_grad(loss)(params, batch)
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
            new = p - rate * (update + (decay * p if name in decayed else 0.0))
            new_params[name] = jnp.minimum(new, meta["largest_log_scale"]) if name == "log_scale" else new
        return new_params, new_m, new_v, t, value

    return jax.jit(step, donate_argnums=(0, 1, 2, 3))


def padded(tokens, lengths, longest):
    """Packed rows as [N, longest, D] with a mask [N, longest]."""
    out = np.zeros((len(lengths), longest, tokens.shape[1]), np.float32)
    mask = np.arange(longest)[None, :] < lengths[:, None]
    out[mask] = tokens
    return out, mask.astype(np.float32)


def load_batch(folder):
    get = lambda name: np.load(folder / f"{name}.npy")
    words, word_segments, frames, frame_segments = map(get, ["words", "word_segments", "frames", "frame_segments"])
    last = word_segments[:, 1].astype(int) - 1
    is_word = np.ones(len(words), bool)
    is_word[last] = False
    lengths = last - word_segments[:, 0].astype(int)
    frame_lengths = np.diff(frame_segments.astype(int), axis=1)[:, 0]
    batch = {"sentence": words[last]}
    batch["words"], batch["word_mask"] = padded(words[is_word], lengths, lengths.max())
    batch["frames"], batch["frame_mask"] = padded(frames, frame_lengths, frame_lengths.max())
    batch["video_key"], batch["caption_key"] = get("video_key")[:, 0], get("caption_key")[:, 0]
    return batch


def relative(a, b, floor=1e-12):
    """Largest difference as a share of the largest value."""
    return float(np.max(np.abs(np.asarray(a) - b)) / max(np.max(np.abs(b)), floor))


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

    def gradient(self):
        value, grads = jax.jit(jax.value_and_grad(self.loss))(self.params, self.batch)
        return float(value), {k: np.asarray(g) for k, g in grads.items()}

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
    command += ["--dump", str(dump)] if dump else []
    ran = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(ran.stdout)


def compare(options, folder):
    first = moviola(options, 5, folder)
    meta = json.loads((folder / "meta.json").read_text())
    ours = Jax(folder, meta, load_batch(folder))
    loss, grads = ours.gradient()
    reference = load_file(folder / "gradient.safetensors")
    # The bias behind a soft-max has no gradient but rounding, which is measured against that of other parameters.
    floor = 1e-2 * max(float(np.max(np.abs(g))) for g in grads.values())
    errors = {name: relative(reference[name], grads[name], floor) for name in sorted(grads)}
    errors["loss"] = abs(loss - meta["loss"]) / abs(loss)
    losses = first["losses"]
    errors["losses of steps"] = relative(losses, np.array(ours.run(len(losses))[2], np.float32))
    return ours, errors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moviola", default="target/release/moviola", help="the program to compare with")
    parser.add_argument("--model", default="token-interaction", choices=sorted(SCORES))
    for name, default in [("batch", 128), ("words", 32), ("frames", 12), ("dim", 512), ("steps", 10), ("rounds", 5)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=0, help="of Moviola; 0 means all cores, which JAX takes")
    parser.add_argument("--ragged", action="store_true", help="random lengths; JAX pads them")
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
        "ragged": options.ragged,
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
