"""Moviola's models in JAX, as `jax_step.py` compares them: losses of a padded batch."""

import jax
import jax.numpy as jnp

FLOOR = -1e30
SHORTEST = 1e-6


def linear(params, name, x):
    return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]


def unit(x):
    """Rows of length one; rows shorter than SHORTEST become 0."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    there = square >= SHORTEST**2
    return jnp.where(there, x * jax.lax.rsqrt(jnp.where(there, square, 1.0)), 0.0)


def row_weight(params, name, x):
    return linear(params, f"{name}.out", jax.nn.relu(linear(params, f"{name}.hidden", x)))[..., 0]


def attended(c, of_sentence, log_omega, prior, config):
    """Scores [N, M] from cosines c [N, L, M, T], the sentences' [N, M, T], ln omega [N, L] and what is added to the
    relevance of frames, [M, T]."""
    tau = config["temperature"]
    log_omega = log_omega[:, :, None, None]
    log_rho = jax.nn.log_softmax(of_sentence / config["relevance_temperature"] + prior, axis=-1)
    over_frames = jax.nn.softmax(c / tau + log_rho[:, None], axis=3)
    t2v = jnp.sum(jnp.exp(log_omega[..., 0]) * jnp.sum(over_frames * c, axis=3), axis=1)
    over_words = jax.nn.softmax(c / tau + log_omega, axis=1)
    v2t = jnp.sum(jnp.exp(log_rho) * jnp.sum(over_words * c, axis=1), axis=2)
    return 0.5 * (t2v + v2t)


def contrast(scores, log_scale, batch):
    """Symmetric InfoNCE; pairs that share a key are no negatives of each other."""
    z = jnp.exp(log_scale[0]) * scores
    same = lambda key: key[:, None] == key[None, :]
    left_out = (same(batch["video_key"]) | same(batch["caption_key"])) & ~jnp.eye(z.shape[0], dtype=bool)
    z = jnp.where(left_out, FLOOR, z)
    rows, columns = jax.nn.logsumexp(z, axis=1), jax.nn.logsumexp(z, axis=0)
    return jnp.mean(rows + columns - 2.0 * jnp.diagonal(z)) / 2.0


def mean_pool(params, batch, config):
    del config
    text = unit(linear(params, "text", batch["sentence"]))
    frames = unit(linear(params, "video", batch["frames"]))
    mask = batch["frame_mask"][..., None]
    video = unit(jnp.sum(frames * mask, axis=1) / jnp.sum(mask, axis=1))
    return {"contrast": (1.0, contrast(text @ video.T, params["log_scale"], batch))}


def log_weights(params, batch, words):
    """ln omega [N, L] of words [N, L, D]."""
    logits = jnp.where(batch["word_mask"] > 0, row_weight(params, "word_weight", words), FLOOR)
    return jax.nn.log_softmax(logits, axis=1)


def token_interaction(params, batch, config):
    words = unit(linear(params, "text", batch["words"]))  # [N, L, D]
    sentence = unit(linear(params, "text", batch["sentence"]))  # [N, D]
    frames = unit(linear(params, "video", batch["frames"]))  # [M, T, D]
    bias = jnp.where(batch["frame_mask"] > 0, row_weight(params, "frame_weight", frames), FLOOR)  # [M, T]
    (n, length, dim), (m, t, _) = words.shape, frames.shape
    flat = frames.reshape(m * t, dim)
    c = (words.reshape(n * length, dim) @ flat.T).reshape(n, length, m, t)
    of_sentence = (sentence @ flat.T).reshape(n, m, t)
    scores = attended(c, of_sentence, log_weights(params, batch, words), bias, config)
    return {"contrast": (1.0, contrast(scores, params["log_scale"], batch))}
