"""The model `cba` in JAX with its default modules: trunk, soft experts, routed interaction, all default losses.

The mixture of experts is never formed: words meet every expert in a matrix product [N(L+1), D] x [D, M·T], and gates
mix the dot products. Frames that other frames are made of (a perturbed video) are mixed by a small matrix, which
is faster here than gathering and, above all, than scattering gradients.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jax_models import FLOOR, attended, contrast, linear, log_weights, row_weight, unit

LEAST_NORM = 1e-12
LAYER_NORM_EPS = 1e-5


def check(config):
    """The modules that are repeated here."""
    cba = config["cba"]
    wanted = [
        (cba["routing"], "mode", "soft"), (cba["routing"], "sharing", "low-rank"), (cba["routing"], "router", "query"),
        (cba["routing"], "query_noise", 0.0), (cba["counterfactual"], "margin", 0.0), (cba["counterfactual"], "hard_negatives", 1.0),
        (cba["counterfactual"], "foreground", "learned"), (cba["counterfactual"], "exchange", "mean"),
        (cba["temporal"], "augment", 0.0), (cba["temporal"], "order", 0.0),
        (cba["trunk"], "mixing", False), (cba["quantisation"], "int8", False),
    ]
    for table, key, value in wanted:
        if table[key] != value:
            raise SystemExit(f"{key} = {table[key]!r} is not repeated in JAX, only {value!r}")


def layer_norm(params, name, x):
    mean = jnp.mean(x, axis=-1, keepdims=True)
    centred = x - mean
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + LAYER_NORM_EPS) * params[f"{name}.gain"] + params[f"{name}.bias"]


def convolved(x, taps, mask):
    """A depthwise convolution over the frames of each video, whose first and last frame go on beyond its ends."""
    last = jnp.concatenate([mask[:, 1:], jnp.zeros_like(mask[:, :1])], axis=1) == 0

    def before(x):
        return jnp.concatenate([x[:, :1], x[:, :-1]], axis=1)

    def after(x):
        return jnp.where(last[..., None], x, jnp.concatenate([x[:, 1:], x[:, -1:]], axis=1))

    half = taps.shape[0] // 2
    out = taps[half] * x
    left = right = x
    for away in range(1, half + 1):
        left, right = before(left), after(right)
        out += taps[half - away] * left + taps[half + away] * right
    return out


def attention(params, name, x, mask, heads):
    (m, t, dim), width = x.shape, x.shape[-1] // heads
    q, k, v = (linear(params, f"{name}.{part}", x).reshape(m, t, heads, width) for part in ("query", "key", "value"))
    logits = jnp.einsum("mthd,mshd->mhts", q, k) / math.sqrt(width)
    p = jax.nn.softmax(jnp.where(mask[:, None, None, :] > 0, logits, FLOOR), axis=-1)
    return linear(params, f"{name}.out", jnp.einsum("mhts,mshd->mthd", p, v).reshape(m, t, dim))


def trunk(params, config, joint, times, mask):
    u = joint
    if config["motion"] > 0:
        for part in ("taps", "difference"):
            u = u + linear(params, f"motion.from_{part}", convolved(joint, params[f"motion.{part}"], mask))
    x = u if times is None else u + linear(params, "frame_time", times)
    if config["layers"] == 0:
        return x
    for layer in range(config["layers"]):
        name = f"trunk.{layer}"
        normed = layer_norm(params, f"{name}.attention.norm", x)
        x = x + attention(params, f"{name}.attention", normed, mask, config["heads"])
        hidden = linear(params, f"{name}.hidden.in", layer_norm(params, f"{name}.hidden.norm", x))
        x = x + linear(params, f"{name}.hidden.out", jax.nn.gelu(hidden, approximate=True))
    return u + x


def encode_video(params, config, joint, times, mask):
    """What a video is scored by, from projected frames [M, T, D]."""
    routing = config["cba"]["routing"]
    (m, t, dim), experts = joint.shape, routing["experts"]
    v = trunk(params, config["cba"]["trunk"], joint, times, mask)
    frames = unit(v)
    bias = jnp.where(mask > 0, row_weight(params, "frame_weight", frames), FLOOR)
    pooled = unit(jnp.sum(frames * mask[..., None], axis=1) / jnp.sum(mask, axis=1, keepdims=True))
    down = params["experts.down"].reshape(experts, routing["rank"], dim)
    up = params["experts.up"].reshape(experts, dim, routing["rank"])
    low = jnp.einsum("mtkr,kdr->kmtd", jnp.einsum("mtd,krd->mtkr", v, down), up)
    each = lambda name: params[f"experts.{name}"][:, None, None, :]
    delta = low + v @ params["experts.shared"].T + each("diagonal") * v + each("bias")  # [K, M, T, D]
    out = v + delta
    return {
        "experts": out,
        "gram": jnp.einsum("kmtd,jmtd->mtkj", out, out),
        "bias": bias,
        "pooled": pooled,
        "logits": linear(params, "router.frame", math.sqrt(dim) * frames),  # [M, T, K]
        "delta_gram": jnp.einsum("kmtd,jmtd->mtkj", delta, delta),
        "mask": mask,
    }


def projected(params, name, x):
    """Tokens in the joint space; standardised first where the model has statistics."""
    if f"{name}.mean" in params:
        x = (x - params[f"{name}.mean"]) * params[f"{name}.inverse_deviation"]
    return linear(params, name, x)


def encode_text(params, batch, config):
    words, sentence = projected(params, "text", batch["words"]), projected(params, "text", batch["sentence"])
    if config["cba"]["trunk"]["positions"]:
        # A sentence vector stands nowhere: its place is 0.
        words = words + linear(params, "word_place", batch["word_places"])
        sentence = sentence + params["word_place.bias"]
    words, sentence = unit(words), unit(sentence)
    return {
        "rows": jnp.concatenate([words, sentence[:, None]], axis=1),  # [N, L + 1, D]
        "sentence": sentence,
        "log_omega": log_weights(params, batch, words),
        "logits": linear(params, "router.text", math.sqrt(words.shape[-1]) * sentence),  # [N, K]
    }


def cosines(text, video):
    """[N, L + 1, M, T] of words and sentence with each text's own mixture of experts."""
    _, m, t, dim = video["experts"].shape
    n, rows, _ = text["rows"].shape
    gates = jax.nn.softmax(text["logits"].T[:, :, None, None] + video["logits"].transpose(2, 0, 1)[:, None], axis=0)
    squared = jnp.einsum("knmt,mtkj,jnmt->nmt", gates, video["gram"], gates)
    lives = squared > LEAST_NORM
    mix = gates * jnp.where(lives, jax.lax.rsqrt(jnp.where(lives, squared, 1.0)), 0.0)  # [K, N, M, T]
    flat = text["rows"].reshape(n * rows, dim)
    # An expert at a time: faster than one product and a sum over its experts.
    dots = [(flat @ expert.reshape(m * t, dim).T).reshape(n, rows, m, t) for expert in video["experts"]]
    return sum(x * weight[:, None] for x, weight in zip(dots, mix))


def pair_scores(c, text, prior, config):
    return attended(c[:, :-1], c[:, -1], text["log_omega"], prior, config)


def background_of(c, batch):
    """1 for the frames that the words of a video's own text meet least, of an odd number the smaller half: [M, T]."""
    own = jnp.diagonal(stop_gradient(c[:, :-1]), axis1=0, axis2=2)  # [L, T, N]
    heard = (batch["word_mask"] > 0).T[:, None, :]
    peaks = jnp.max(jnp.where(heard, own, -jnp.inf), axis=0).T
    seen = batch["frame_mask"] > 0
    order = jnp.argsort(-jnp.where(seen, peaks, -jnp.inf), axis=1, stable=True)
    rank = jnp.argsort(order, axis=1)
    lengths = jnp.sum(seen, axis=1, keepdims=True)
    return (seen & (rank >= (lengths + 1) // 2)).astype(jnp.float32)


def uniformity(scores, log_scale):
    z = jnp.exp(stop_gradient(log_scale[0])) * scores
    side = lambda axis: jnp.mean(jax.nn.logsumexp(z, axis=axis) - jnp.mean(z, axis=axis) - math.log(z.shape[axis]))
    return 0.5 * (side(1) + side(0))


def consistency(target, perturbed, log_scale):
    """Jensen-Shannon divergence of the soft-maxes over rows and over columns; the target is given."""
    scale = jnp.exp(log_scale[0])

    def side(axis):
        log_p = jax.nn.log_softmax(stop_gradient(scale * target), axis=axis)
        log_q = jax.nn.log_softmax(scale * perturbed, axis=axis)
        log_m = jnp.logaddexp(log_p, log_q) - math.log(2.0)
        parts = jnp.exp(log_p) * (log_p - log_m) + jnp.exp(log_q) * (log_q - log_m)
        return jnp.mean(jnp.sum(0.5 * parts, axis=axis))

    return 0.5 * (side(1) + side(0))


def balance(text, video):
    """The load-balance loss and the z-loss of the gates of matched pairs."""
    logits = text["logits"][:, None] + video["logits"]
    mask = video["mask"][..., None]
    frames, experts = jnp.sum(mask), logits.shape[-1]
    lse = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    chosen = jax.nn.one_hot(jnp.argmax(logits, axis=-1), experts)
    share = stop_gradient(jnp.sum(chosen * mask, axis=(0, 1)) / frames)
    mean = jnp.sum(jnp.exp(logits - lse) * mask, axis=(0, 1)) / frames
    return experts * jnp.sum(share * mean), jnp.sum(lse * lse * mask) / frames


def decorrelation(gram, mask):
    experts = gram.shape[-1]
    squares = jnp.diagonal(gram, axis1=-2, axis2=-1)
    product = squares[..., :, None] * squares[..., None, :]
    counts = (product > LEAST_NORM) & ~jnp.eye(experts, dtype=bool) & (mask > 0)[..., None, None]
    cosines = jnp.where(counts, gram * gram / jnp.where(counts, product, 1.0), 0.0)
    return jnp.sum(cosines) / (jnp.sum(mask) * experts * (experts - 1))


def cba(params, batch, config):
    """All terms of the loss with their weights."""
    modules = config["cba"]
    c = modules["counterfactual"]
    scale = params["log_scale"]
    encode = functools.partial(encode_video, params, config)
    joint, mask, times = projected(params, "video", batch["frames"]), batch["frame_mask"], batch.get("frame_times")
    text, video = encode_text(params, batch, config), encode(joint, times, mask)

    met = cosines(text, video)
    scores = pair_scores(met, text, video["bias"], config)
    terms = {"contrast": (1.0, contrast(scores, scale, batch))}
    pooled = contrast(text["sentence"] @ video["pooled"].T, params["pooled_log_scale"], batch)
    terms["pooled"] = (modules["trunk"]["pooled"], pooled)
    shares, z = balance(text, video)
    terms["balance"] = (modules["routing"]["balance"], shares)
    terms["router_z"] = (modules["routing"]["z"], z)
    terms["decorrelation"] = (modules["routing"]["decorrelation"], decorrelation(video["delta_gram"], mask))

    background = background_of(met, batch)
    alone = pair_scores(met, text, jnp.where(background > 0, video["bias"], FLOOR), config)
    alone = jnp.where(jnp.sum(background, axis=1) > 0, alone, 0.0)
    terms["uniform"] = (c["uniform"], uniformity(alone, scale))

    if c["swap"] > 0:
        frames = jnp.sum(background, axis=1, keepdims=True)
        has = (frames > 0).astype(jnp.float32)
        mean = jnp.einsum("mtd,mt->md", joint, background / jnp.maximum(frames, 1.0))
        donor = batch["donor_video"]
        swapped = encode(joint + (has * mean[donor] - has[donor] * mean)[:, None], times, mask)
        swapped = pair_scores(cosines(text, swapped), text, swapped["bias"], config)
        terms["swap"] = (c["swap"], contrast(swapped, scale, batch))
        terms["swap_consistency"] = (c["swap"], consistency(scores, swapped, scale))

    moved = jnp.einsum("mst,mtd->msd", batch["perturbed_mix"], joint)
    moved = encode(moved, batch.get("perturbed_times"), batch["perturbed_mask"])
    moved = pair_scores(cosines(text, moved), text, moved["bias"], config)
    terms["consistency"] = (modules["temporal"]["consistency"], consistency(scores, moved, scale))
    return terms
