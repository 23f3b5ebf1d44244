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
# A logit whose exponential is 0 beside any other.
NEVER = -1e300
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

    def padded(self, segments, longest, tail):
        """Rows of each segment side by side and which of them exist; segments that are too long have none."""
        lengths = [end - begin - tail if end - begin <= longest else 0 for begin, end in segments]
        width = max([*lengths, 1])
        rows = np.zeros((len(segments), width), int)
        there = np.zeros((len(segments), width), bool)
        for i, ((begin, _), length) in enumerate(zip(segments, lengths)):
            rows[i, : max(length, 0)] = np.arange(begin, begin + max(length, 0))
            there[i, : max(length, 0)] = True
        return rows, there

    def logits(self, x, frames):
        """[N, M, T, k] for the rows [M, T] of the frames, and which of them exist."""
        table = self.x["table"]
        table = np.tile(np.arange(self.slots), (len(self.x["frames"]), 1)) if table is None else table.astype(int)
        table = table[frames]
        known = table < x["g"].shape[1]
        return x["g"][:, np.where(known, table, 0)] + x["h"][frames][None], known[None]

    def surviving(self, frames):
        """The slots that take part, for every text: by the values alone."""
        logits, known = self.logits(self.x, frames)
        part = known & (logits > EXCLUDED)
        # Stable: of equal logits the lower slot comes first.
        order = np.argsort(-np.where(part, logits, -np.inf), axis=-1, kind="stable")
        rank = np.argsort(order, axis=-1, kind="stable")
        return part & (rank < (self.kept or self.slots))

    def cosines(self, x, words, frames):
        """[N, M, L, T] of rows of words [N, L] with every text's token of the frames [M, T]."""
        w, e = x["words"][words], x["frames"][frames]
        if not self.routed:
            return jnp.einsum("nld,mtd->nmlt", w, e)
        part = self.surviving(frames)
        pi = jax.nn.softmax(jnp.where(part, self.logits(x, frames)[0], NEVER), axis=-1) * part
        gram = x["gram"][frames].reshape(*frames.shape, self.slots, self.slots)
        squared = jnp.einsum("nmts,mtsr,nmtr->nmt", pi, gram, pi)
        lives = squared > LEAST_NORM
        p = jnp.where(lives, 1.0 / jnp.sqrt(jnp.where(lives, squared, 1.0)), 0.0)[..., None] * pi
        experts = e.reshape(*frames.shape, self.slots, w.shape[-1])
        return jnp.einsum("nld,mtsd,nmts->nmlt", w, experts, p)

    def view(self, x, words, frames, c, log_weights):
        """Scores [N, M] and relevance [N, M, T] under one view; words and frames are (rows, which exist)."""
        heard = words[1] & (self.x["log_omega"][words[0]] > EXCLUDED)
        seen = frames[1] & ((self.x["bias"] + log_weights)[frames[0]] > EXCLUDED)
        both = heard.any(axis=1)[:, None] & seen.any(axis=1)[None, :]
        c, of_sentence = c[:, :, :-1], c[:, :, -1]
        prior = x["bias"][frames[0]] + log_weights[frames[0]]
        log_rho = jax.nn.log_softmax(jnp.where(seen, of_sentence / self.relevance_tau + prior, NEVER), axis=-1)
        rho = jnp.where(seen, jnp.exp(log_rho), 0.0)
        log_omega = jnp.where(heard, x["log_omega"][words[0]], NEVER)[:, None]
        over_frames = jax.nn.softmax(c / self.tau + log_rho[:, :, None, :], axis=3)
        over_words = jax.nn.softmax(c / self.tau + log_omega[..., None], axis=2)
        t2v = jnp.sum(jnp.exp(log_omega) * jnp.sum(over_frames * c, axis=3), axis=2)
        v2t = jnp.sum(rho * jnp.sum(over_words * c, axis=2), axis=2)
        return jnp.where(both, 0.5 * (t2v + v2t), 0.0), jnp.where(both[..., None], rho, 0.0)

    def outputs(self, x):
        """Scores [N, M], view scores [P, N, M], relevance [N, R]."""
        shape = (len(self.views), len(self.texts), len(self.videos))
        relevance = jnp.zeros((shape[1], self.x["frames"].shape[0]))
        if 0 in (shape[1], shape[2], len(self.x["words"]), len(self.x["frames"])):
            return [jnp.zeros(shape[1:]), jnp.zeros((shape[0] - 1, *shape[1:])), relevance]
        words = self.padded(self.texts, self.longest[0], 1)
        frames = self.padded(self.videos, self.longest[1], 0)
        # A text's sentence vector is the row behind its words; who has none is left out later.
        sentence = np.maximum(self.texts[:, 1:] - 1, 0)
        c = self.cosines(x, np.concatenate([words[0], sentence], axis=1), frames[0])
        views = [self.view(x, words, frames, c, log_weights) for log_weights in self.views]
        scores = jnp.stack([scores for scores, _ in views])
        relevance = relevance.at[:, frames[0]].add(views[0][1])
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
    outs = jax.jit(problem.outputs)(problem.differentiated())
    return {f"out{i}": out for i, out in enumerate(outs)}


def backward(meta, given):
    problem = Problem(meta, given)

    def loss(x):
        douts = [given.get(f"in{11 + i}") for i in range(3)]
        terms = [jnp.sum(d * out) for d, out in zip(douts, problem.outputs(x)) if d is not None]
        return sum(terms, jnp.zeros(()))

    gradient = jax.jit(jax.grad(loss))(problem.differentiated())
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
                subprocess.run([args.binary.resolve(), "doctor", "--dump-samples", op, folder], check=True)
            done, bad = check(folder, opinion)
            compared, wrong = compared + done, wrong + bad
    print(f"{compared - wrong} of {compared} samples agree to {TOLERANCE}")
    return 0 if compared > 10 and wrong == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
