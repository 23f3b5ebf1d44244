#!/usr/bin/env python3
"""What transformers makes of longer texts and of patches, with the checkpoints that make.py wrote, for tests/encoders.rs.

    target/hf/bin/python tools/encoder-goldens/more.py tests/goldens/encoders

Also takes what `make.py --full` wrote. Writes into each folder of a CLIP `stretched.json` and `stretched.safetensors` (its positions stretched: texts, the numbers
of their pieces, tokens and sentence vectors) and, where it has pictures, `patches.safetensors`, all computed in f64. The
folder long-clip is made first if it is not there: a text tower with the 77 positions of CLIP, from which Long-CLIP's 248
are made by the formula of its authors, a row at a time; other numbers by np.interp.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import transformers
from make import SEED, SPREAD, byte_pairs_of_clip, sentences
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer

# Rows that are not stretched.
KEPT = 20
LONG = " and then ".join(sentences())
# Positions that a folder's are stretched to where it has other than 77.
STRETCHED = {"clip": 100, "open-clip": 31, "long-clip": 248}


def make_long(folder):
    torch.manual_seed(SEED)
    tokenizer = byte_pairs_of_clip(600)
    end, begin = tokenizer.token_to_id("<|endoftext|>"), tokenizer.token_to_id("<|startoftext|>")
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, max_position_embeddings=77, projection_dim=12)
    config = transformers.CLIPTextConfig(vocab_size=tokenizer.get_vocab_size(), eos_token_id=end, bos_token_id=begin, pad_token_id=end, **sizes)
    model = transformers.CLIPTextModelWithProjection(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * (SPREAD if p.dim() < 2 else SPREAD / p.shape[-1] ** 0.5))
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


def by_four(old):
    """The formula of Long-CLIP's authors."""
    n = len(old)
    new = torch.zeros(4 * n - 3 * KEPT, old.shape[1], dtype=old.dtype)
    new[:KEPT] = old[:KEPT]
    for i in range(KEPT, n):
        step = old[i + 1] - old[i] if i + 1 < n else old[i] - old[i - 1]
        for k in range(4):
            new[KEPT + 4 * (i - KEPT) + k] = old[i] + k * step / 4
    return new


def stretched(old, n):
    if n == 4 * len(old) - 3 * KEPT:
        return by_four(old)
    places = np.concatenate([np.arange(KEPT), KEPT + np.arange(n - KEPT) * (len(old) - KEPT) / (n - KEPT)])
    # One row more, so that what lies behind the last one lies between two.
    known = np.concatenate([old.numpy(), 2 * old[-1:].numpy() - old[-2:-1].numpy()])
    columns = [np.interp(places, np.arange(len(known)), column) for column in known.T]
    return torch.tensor(np.stack(columns, axis=1))


def load(folder):
    kind = transformers.CLIPModel if folder.name != "long-clip" else transformers.CLIPTextModelWithProjection
    return kind.from_pretrained(folder).double().eval()


def texts_of(positions, count):
    """Short ones, which are the same with and without, one that fills the first positions, longer ones, and one too long."""
    words = LONG.split()

    def longest(pieces):
        n = 0
        while count(" ".join(words[: n + 1])) <= pieces:
            n += 1
        return " ".join(words[:n])

    return ["a man is playing a guitar on a stage", longest(KEPT), longest(200 * positions // 248), longest(positions), " ".join(words[:400])]


def write_stretched(folder, positions):
    model = load(folder)
    old = model.text_model.embeddings.position_embedding.weight.detach()
    positions = 248 if len(old) == 77 else positions
    short = dict(model.named_parameters())
    config = model.config.text_config if hasattr(model.config, "text_config") else model.config
    config.max_position_embeddings = positions
    longer = type(model)(model.config).double().eval()
    values = {name: stretched(old, positions) if name.endswith("position_embedding.weight") and name.startswith("text_model") else p for name, p in short.items()}
    longer.load_state_dict(values)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = texts_of(positions, lambda t: len(tokenizer.encode(t).ids))
    tokenizer.enable_truncation(positions)
    ids = [tokenizer.encode(t).ids for t in texts]
    expected = {}
    with torch.no_grad():
        for i, pieces in enumerate(ids):
            out = longer.text_model(input_ids=torch.tensor([pieces]))
            expected[f"tokens.{i}"] = longer.text_projection(out.last_hidden_state)[0].float().contiguous()
            expected[f"sentence.{i}"] = longer.text_projection(out.pooler_output)[0].float().contiguous()
    save_file(expected, folder / "stretched.safetensors")
    (folder / "stretched.json").write_text(json.dumps({"positions": positions, "texts": texts, "ids": ids}))
    print(f"{folder.name}: {len(old)} positions become {positions}, texts of {[len(i) for i in ids]} pieces")


def write_patches(folder):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    model, processor = load(folder), CLIPImageProcessorPil.from_pretrained(folder)
    expected = {}
    with torch.no_grad():
        for i, path in enumerate(sorted((folder / "pictures").iterdir())):
            pixels = processor(Image.open(path), return_tensors="pt")["pixel_values"].double()
            hidden = model.vision_model(pixel_values=pixels).last_hidden_state
            patches = model.visual_projection(model.vision_model.post_layernorm(hidden[:, 1:]))
            expected[f"hidden.{i}"], expected[f"patches.{i}"] = hidden[0].float().contiguous(), patches[0].float().contiguous()
    save_file(expected, folder / "patches.safetensors")
    print(f"{folder.name}: patches of {i + 1} pictures, {tuple(patches[0].shape)} each")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    if not (out / "long-clip").exists():
        make_long(out / "long-clip")
    for name, positions in STRETCHED.items():
        write_stretched(out / name, positions)
        if (out / name / "pictures").exists():
            write_patches(out / name)


if __name__ == "__main__":
    main()
