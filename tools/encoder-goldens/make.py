#!/usr/bin/env python3
"""Small checkpoints with random weights, and what transformers makes of texts and pictures with them, for
tests/encoders.rs.

    python3 -m venv target/hf && target/hf/bin/pip install -r tools/encoder-goldens/requirements.txt
    target/hf/bin/python tools/encoder-goldens/make.py tests/goldens/encoders

Writes a folder a family: config.json, model.safetensors, tokenizer.json (a vocabulary learned from the sentences below,
since none ships with a package), pictures, expected.json (texts and the numbers of their pieces) and expected.safetensors (tokens
and sentence vectors, computed in f64). With `--full DIR --texts FILE` it does the same for architectures of real size,
still with random weights, and the texts of a file, one a line: too large to keep, compared by
`tools/test --with-encoders DIR`.
"""

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SEED = 1
# Wide enough that no activation works at its edges only, and that a wrong place or norm is no rounding error.
SPREAD = 0.3

TEXTS = [
    "a man is playing a guitar on a stage",
    "two dogs run across the beach, and one of them jumps!",
    "",
    "Cooking: how to chop an onion (quickly)",
    "Ünïcödé naïve façade – “quotes” … and a dash",
    "一个男人在弹吉他",
    "🎸🐕 emoji 👩‍👩‍👧 family",
    "a" * 60,
    "the quick brown fox jumps over the lazy dog " * 12,
    "  spaces   and\ttabs\nand lines  ",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "1,000 people at 3:45 pm don't won't we're",
]


def sentences():
    who = ["a man", "two women", "the dog", "some children", "a chef", "an old player"]
    does = ["is playing", "talks about", "runs across", "jumps over", "is cooking", "shows"]
    what = ["a guitar on a stage", "the beach", "an onion", "a basketball game", "the lazy fox", "emoji and quotes"]
    for words in itertools.product(who, does, what):
        yield " ".join(words) + "."
    yield from TEXTS


def word_pieces(size):
    """As BertTokenizerFast: lower case, no accents, words and punctuation, pieces with ##."""
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t.train_from_iterator(sentences(), trainers.WordPieceTrainer(vocab_size=size, special_tokens=special))
    ends = [(name, t.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair=None, special_tokens=ends)
    return t


def byte_pairs_of_roberta(size):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    t.train_from_iterator(sentences(), trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet))
    t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return t


def byte_pairs_of_clip(size):
    """As CLIPTokenizerFast: words by a pattern of its own, bytes, the end of a word marked, the special pieces last."""
    t = Tokenizer(models.BPE(unk_token="<|endoftext|>", continuing_subword_prefix="", end_of_word_suffix="</w>"))
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    blanks = normalizers.Replace(Regex(r"\s+"), " ")
    t.normalizer = normalizers.Sequence([normalizers.NFC(), blanks, normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
    t.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size - 2, initial_alphabet=alphabet, end_of_word_suffix="</w>")
    t.train_from_iterator(sentences(), trainer)
    t.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    first, last = (t.token_to_id(name) for name in ("<|startoftext|>", "<|endoftext|>"))
    t.post_processor = processors.RobertaProcessing(("<|endoftext|>", last), ("<|startoftext|>", first), add_prefix_space=False, trim_offsets=False)
    return t


def bert(t, full):
    sizes = dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, max_position_embeddings=512)
    small = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, max_position_embeddings=48)
    config = transformers.BertConfig(vocab_size=t.get_vocab_size(), pad_token_id=0, **(sizes if full else small))
    return transformers.BertModel(config, add_pooling_layer=False), config.max_position_embeddings


def roberta(t, full):
    sizes = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, max_position_embeddings=514)
    small = dict(hidden_size=20, num_hidden_layers=2, num_attention_heads=2, intermediate_size=36, max_position_embeddings=50)
    config = transformers.RobertaConfig(vocab_size=t.get_vocab_size(), type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5, **(sizes if full else small))
    return transformers.RobertaModel(config, add_pooling_layer=False), config.max_position_embeddings - 2


def clip(activation):
    def make(t, full):
        end, begin = t.token_to_id("<|endoftext|>"), t.token_to_id("<|startoftext|>")
        sizes = dict(hidden_size=512, num_hidden_layers=12, num_attention_heads=8, intermediate_size=2048, max_position_embeddings=77)
        small = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=30)
        text = dict(vocab_size=t.get_vocab_size(), hidden_act=activation, eos_token_id=end, bos_token_id=begin, pad_token_id=end, **(sizes if full else small))
        sizes = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, image_size=224, patch_size=32)
        small = dict(hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8)
        vision = dict(hidden_act=activation, **(sizes if full else small))
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=512 if full else 16)
        return transformers.CLIPModel(config), text["max_position_embeddings"]

    return make


# Family: (tokenizer, pieces of its vocabulary, model, mean pooling and unit length as sentence-transformers ask for).
FAMILIES = {
    "bert": (word_pieces, 400, bert, False),
    "minilm": (word_pieces, 300, bert, True),
    "roberta": (byte_pairs_of_roberta, 500, roberta, False),
    "clip": (byte_pairs_of_clip, 700, clip("quick_gelu"), False),
    "open-clip": (byte_pairs_of_clip, 700, clip("gelu"), False),
}


# Width and height: wide, tall, as large as the tower's square, smaller, and one that halves are not whole of.
PICTURES = [(41, 23), (20, 57), (16, 16), (9, 12), (35, 34)]


def picture(i, width, height):
    """Waves, edges and noise: what resizing without a low pass gets wrong."""
    random = np.random.default_rng(SEED + i)
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 100 * np.sin(x * random.uniform(0.1, 1.5) + y * random.uniform(0.1, 1.5) + c) for c in range(3)]
    image = np.stack(waves, axis=-1) + random.normal(0, 20, (height, width, 3))
    image[height // 3 : height // 2, width // 4 : width // 2] = random.uniform(0, 255, 3)
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


def write_pictures(folder, model, side, expected):
    """Pictures, and their vectors by the reference's preprocessing, that of Pillow."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    processor.save_pretrained(folder)
    (folder / "pictures").mkdir(exist_ok=True)
    for i, (width, height) in enumerate(PICTURES):
        image = picture(i, width, height)
        image.save(folder / "pictures" / f"{i}.png")
        pixels = processor(image, return_tensors="pt")["pixel_values"]
        expected[f"pixels.{i}"] = pixels[0].float().contiguous()
        pooled = model.vision_model(pixel_values=pixels.double()).pooler_output
        expected[f"image.{i}"] = model.visual_projection(pooled)[0].float().contiguous()


def outputs(model, ids, mean):
    """Tokens [L, D] and sentence vector [D] of one text."""
    ids = torch.tensor([ids])
    if isinstance(model, transformers.CLIPModel):
        out = model.text_model(input_ids=ids)
        return model.text_projection(out.last_hidden_state)[0], model.text_projection(out.pooler_output)[0]
    tokens = model(input_ids=ids).last_hidden_state[0]
    sentence = tokens.mean(dim=0) if mean else tokens[0]
    return tokens, torch.nn.functional.normalize(sentence, dim=0) if mean else sentence


def write(folder, family, texts, full):
    make_tokenizer, size, make_model, mean = FAMILIES[family]
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer(size)
    model, longest = make_model(tokenizer, full)
    model.eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            # Norms begin at exactly 1 and 0, and biases at 0: a test would not see them swapped.
            p.add_(torch.randn_like(p) * (SPREAD if p.dim() < 2 else SPREAD / p.shape[-1] ** 0.5 if not full else 0.02))
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    if mean:
        (folder / "1_Pooling").mkdir(exist_ok=True)
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}))
        (folder / "modules.json").write_text(json.dumps([{"idx": 2, "type": "sentence_transformers.models.Normalize"}]))
    for name in ("generation_config.json",):
        (folder / name).unlink(missing_ok=True)
    tokenizer.enable_truncation(longest)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    model = model.double()
    expected, ids = {}, []
    with torch.no_grad():
        for i, text in enumerate(texts):
            ids.append(fast(text, truncation=True, max_length=longest)["input_ids"])
            tokens, sentence = outputs(model, ids[-1], mean)
            expected[f"tokens.{i}"], expected[f"sentence.{i}"] = tokens.float().contiguous(), sentence.float().contiguous()
        if isinstance(model, transformers.CLIPModel):
            write_pictures(folder, model, model.config.vision_config.image_size, expected)
    save_file(expected, folder / "expected.safetensors")
    (folder / "expected.json").write_text(json.dumps({"texts": texts, "ids": ids}, ensure_ascii=False))
    print(f"{family}: {sum(p.numel() for p in model.parameters())} numbers, {len(texts)} texts")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--full", action="store_true", help="architectures of real size")
    parser.add_argument("--texts", type=Path, help="texts, one a line, instead of those of this file")
    options = parser.parse_args()
    texts = options.texts.read_text().splitlines() if options.texts else TEXTS
    for family in FAMILIES:
        write(options.out / family, family, texts, options.full)


if __name__ == "__main__":
    main()
