#!/usr/bin/env python3
"""A second opinion on token interaction: its formulas in JAX and f64, against the program's f64 references.

  tools/second-opinion/interact.py                     builds the program, dumps the samples, compares
  tools/second-opinion/interact.py --binary PATH       with a program that is there
  tools/second-opinion/interact.py --samples DIR       with samples that `moviola doctor --dump-samples` wrote: DIR holds
                                                       interact/ and interact_grad/

Word rows w_l and a sentence row q of a text, outputs E_ts of k experts of a frame, a text's logits g and a frame's
logits h:

  pi_its = softmax_s(g_i,expert(t,s) + h_ts)                     of the `kept` largest logits, renormalised
  c_lt   = sum_s pi_its <w_l, E_ts> / sqrt(pi_it' G_t pi_it)     0 where the root is of 1e-12 or less; c_qt likewise
  rho_t  = softmax_t(c_qt / tau_rho + bias_t)
  t2v    = sum_l omega_l sum_t softmax_t(c_lt / tau + ln rho_t) c_lt
  v2t    = sum_t rho_t sum_l softmax_l(c_lt / tau + ln omega_l) c_lt
  score  = (t2v + v2t) / 2

Without a router k = 1 and c is the plain dot product. A view adds log-weights to the bias. Log-weights (and logits) of
-1e29 or less take their word, frame or slot out. Gradients are those of a weighted sum of all outputs, by jax.grad.

Exit status 0 only if every sample was compared and agrees to 1e-9, relative to the largest number of its tensor.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)

EXCLUDED = -1e29
LEAST_NORM = np.float64(np.float32(1e-12))
TOLERANCE = 1e-9
# Operands with a gradient, in the order of the outputs of interact_grad.
DIFFERENTIATED = ["words", "log_omega", "frames", "bias", "g", "h", "gram"]
OPERANDS = ["words", "word_segments", "log_omega", "frames", "frame_segments", "bias", "g", "h", "table", "gram", "views"]


def attribute(text, name):
    """A number of a Rust struct's debug text; those with a point are f32 there."""
    number = re.search(rf"\b{name}: ([-+.eE0-9]+)", text).group(1)
    return int(number) if number.isdigit() else float(np.float32(number))


class Problem:
    """A sample: its operands by name, and what is decided by their values (who takes part)."""

    def __init__(self, meta, given):
        self.tau = attribute(meta["attributes"], "temperature")
        self.relevance_tau = attribute(meta["attributes"], "relevance_temperature")
        self.kept = attribute(meta["attributes"], "kept") if "kept" in meta["attributes"] else 0
        self.longest = [attribute(meta["attributes"], name) for name in ("max_words", "max_frames")]
        self.x = {name: given.get(f"in{i}") for i, name in enumerate(OPERANDS)}
        self.routed = self.x["g"] is not None
        self.texts = self.x["word_segments"].astype(int)
        self.videos = self.x["frame_segments"].astype(int)
        rows = self.x["frames"].shape[0]
        if self.x["log_omega"] is None:
            self.x["log_omega"] = self.uniform()
        if self.x["bias"] is None:
            self.x["bias"] = np.zeros(rows)
        views = self.x["views"] if self.x["views"] is not None else np.zeros((0, rows))
        # The first is the factual one, which adds nothing.
        self.views = np.concatenate([np.zeros((1, rows)), views])
        self.slots = self.x["h"].shape[1] if self.routed else 1

    def uniform(self):
        log_omega = np.zeros(self.x["words"].shape[0])
        for begin, end in self.texts:
            log_omega[begin:end] = -np.log(max(end - begin - 1, 1))
        return log_omega

    def differentiated(self):
        return {name: jnp.asarray(self.x[name]) for name in DIFFERENTIATED if self.x[name] is not None}

    def logits(self, x, text, frames):
        """[T, k], and which of them exist."""
        h = x["h"][frames]
        table = self.x["table"]
        table = np.tile(np.arange(self.slots), (h.shape[0], 1)) if table is None else table[frames].astype(int)
        known = table < x["g"].shape[1]
        return x["g"][text][np.where(known, table, 0)] + h, known

    def surviving(self, text, frames):
        """The slots of each frame that take part for this text, by the values alone."""
        logits, known = self.logits(self.x, text, frames)
        part = known & (logits > EXCLUDED)
        # Stable: of equal logits the lower slot comes first.
        order = np.argsort(-np.where(part, logits, -np.inf), axis=1, kind="stable")
        rank = np.argsort(order, axis=1, kind="stable")
        return part & (rank < (self.kept or self.slots))

    def cosines(self, x, text, words, frames):
        """[L, T] of the words' rows (the sentence's too) with a text's token of each frame."""
        w = x["words"][words]
        if not self.routed:
            return w @ x["frames"][frames].T
        part = self.surviving(text, frames)
        logits = jnp.where(part, self.logits(x, text, frames)[0], -1e300)
        pi = jax.nn.softmax(logits, axis=1) * part
        gram = x["gram"][frames].reshape(-1, self.slots, self.slots)
        squared = jnp.einsum("ts,tsr,tr->t", pi, gram, pi)
        lives = squared > LEAST_NORM
        p = jnp.where(lives, 1.0 / jnp.sqrt(jnp.where(lives, squared, 1.0)), 0.0)[:, None] * pi
        experts = x["frames"][frames].reshape(-1, self.slots, w.shape[1])
        return jnp.einsum("ld,tsd,ts->lt", w, experts, p)

    def pair(self, x, text, video, view):
        """Score and relevance of the frames; nothing where one of the two is empty."""
        (begin, end), (first, last) = self.texts[text], self.videos[video]
        if end - begin < 2 or first == last or end - begin > self.longest[0] or last - first > self.longest[1]:
            return None
        frames = np.arange(first, last)
        frames = frames[self.x["bias"][frames] + self.views[view, frames] > EXCLUDED]
        words = np.arange(begin, end - 1)
        words = words[self.x["log_omega"][words] > EXCLUDED]
        if len(frames) == 0 or len(words) == 0:
            return None
        c = self.cosines(x, text, np.append(words, end - 1), frames)
        c, of_sentence = c[:-1], c[-1]
        prior = x["bias"][frames] + self.views[view, frames]
        log_rho = jax.nn.log_softmax(of_sentence / self.relevance_tau + prior)
        log_omega = x["log_omega"][words]
        over_frames = jax.nn.softmax(c / self.tau + log_rho[None, :], axis=1)
        over_words = jax.nn.softmax(c / self.tau + log_omega[:, None], axis=0)
        t2v = jnp.sum(jnp.exp(log_omega) * jnp.sum(over_frames * c, axis=1))
        v2t = jnp.sum(jnp.exp(log_rho) * jnp.sum(over_words * c, axis=0))
        return 0.5 * (t2v + v2t), jnp.exp(log_rho), frames

    def outputs(self, x):
        """Scores [N, M], view scores [P, N, M], relevance [N, R]."""
        shape = (len(self.views), len(self.texts), len(self.videos))
        scores = jnp.zeros(shape)
        relevance = jnp.zeros((shape[1], self.x["frames"].shape[0]))
        for view, text, video in np.ndindex(*shape):
            pair = self.pair(x, text, video, view)
            if pair is None:
                continue
            scores = scores.at[view, text, video].set(pair[0])
            if view == 0:
                relevance = relevance.at[text, pair[2]].set(pair[1])
        return [scores[0], scores[1:], relevance]


def load(folder):
    meta = json.loads((folder / "meta.json").read_text())
    return meta, {path.stem: np.load(path) for path in sorted(folder.glob("*.npy"))}


def compare(ours, theirs):
    """The largest difference, relative to the largest number of the reference."""
    ours = np.asarray(ours).reshape(theirs.shape)
    if theirs.size == 0:
        return 0.0
    return float(np.max(np.abs(ours - theirs)) / max(np.max(np.abs(theirs)), 1e-6))


def forward(meta, given):
    problem = Problem(meta, given)
    outs = problem.outputs(problem.differentiated())
    return {f"out{i}": out for i, out in enumerate(outs)}


def backward(meta, given):
    problem = Problem(meta, given)

    def loss(x):
        douts = [given.get(f"in{11 + i}") for i in range(3)]
        return sum(jnp.sum(d * out) for d, out in zip(douts, problem.outputs(x)) if d is not None)

    gradient = jax.grad(loss)(problem.differentiated())
    return {f"out{i}": gradient[name] for i, name in enumerate(DIFFERENTIATED) if name in gradient}


def check(folder, opinion):
    """Prints a line a sample; returns how many were compared and how many disagree."""
    compared = wrong = 0
    for sample in sorted(path for path in folder.iterdir() if path.is_dir()):
        meta, given = load(sample)
        ours = opinion(meta, given)
        theirs = {name: x for name, x in given.items() if name.startswith("out")}
        missing = [name for name, x in theirs.items() if x.size > 0 and name not in ours]
        errors = {name: compare(ours[name], x) for name, x in theirs.items() if name in ours}
        worst = max(errors.values(), default=0.0)
        # A NaN is never small enough.
        agrees = not missing and all(e <= TOLERANCE for e in errors.values())
        compared += 1
        wrong += not agrees
        print(f"{'ok ' if agrees else 'BAD'} {folder.name} [{meta['sample']}] {worst:.1e} {missing or ''}", flush=True)
        if not agrees:
            print("    " + ", ".join(f"{name} {e:.1e}" for name, e in errors.items()))
    return compared, wrong


def binary():
    """The program, built here."""
    root = Path(__file__).resolve().parents[2]
    subprocess.run(["cargo", "build", "--release"], cwd=root, check=True)
    return root / "target" / "release" / "moviola"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path)
    parser.add_argument("--samples", type=Path)
    args = parser.parse_args()
    compared = wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        for op, opinion in [("interact", forward), ("interact_grad", backward)]:
            folder = (args.samples or Path(scratch)) / op
            if args.samples is None:
                args.binary = args.binary or binary()
                subprocess.run([args.binary, "doctor", "--dump-samples", op, folder], check=True)
            done, bad = check(folder, opinion)
            compared, wrong = compared + done, wrong + bad
    print(f"{compared - wrong} of {compared} samples agree to {TOLERANCE}")
    return 0 if compared > 10 and wrong == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
