"""Frames a second of CLIP's image tower on the CPU: Moviola beside ONNX Runtime, in turns on the same cores.

    python onnx_clip.py --moviola target/release/moviola --encoder clip-vit-base-patch32 --frames 256 --rounds 3

Needs torch, transformers, onnx, onnxruntime and ffmpeg. Moviola encodes a video that is made here, from the file to
the rows on the disk: decoding, resizing and writing are in its time. ONNX Runtime is given tensors that are ready, in
batches of 32: what it takes to make them is not in its time. int8 is dynamic quantisation of its matrix products.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import CLIPVisionModelWithProjection

BATCH = 32


def exported(encoder, folder):
    model = CLIPVisionModelWithProjection.from_pretrained(encoder, attn_implementation="eager").eval()
    side = model.config.image_size
    pixels = torch.randn(BATCH, 3, side, side)

    class Tower(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixels):
            return self.model(pixel_values=pixels).image_embeds

    path = folder / "f32.onnx"
    torch.onnx.export(
        Tower(), (pixels,), str(path), input_names=["pixels"], output_names=["vectors"], opset_version=17, dynamo=False
    )
    quantised = folder / "int8.onnx"
    quantize_dynamic(str(path), str(quantised), weight_type=QuantType.QInt8)
    return {"f32": path, "int8": quantised}, pixels.numpy()


def runtime(path, pixels, frames, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    session.run(None, {"pixels": pixels})

    def once():
        begun = time.perf_counter()
        for _ in range(frames // BATCH):
            session.run(None, {"pixels": pixels})
        return frames // BATCH * BATCH / (time.perf_counter() - begun)

    return once


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moviola", required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--frames", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "clips").mkdir()
        rate = 8
        source = f"mandelbrot=s=640x360:r={rate}:end_scale=0.01"
        make = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, "-frames:v", str(args.frames), "-c:v", "libx264"]
        subprocess.run([*make, "-pix_fmt", "yuv420p", str(folder / "clips/clip.mp4")], check=True)
        models, pixels = exported(args.encoder, folder)
        rng = np.random.default_rng(1)
        pixels = rng.standard_normal(pixels.shape, dtype=np.float32)
        others = {p: runtime(path, pixels, args.frames, args.threads) for p, path in models.items()}

        def ours(precision):
            out = folder / "out"
            command = [args.moviola, "encode", "videos", str(folder / "clips"), "--encoder", args.encoder, "--out", str(out)]
            command += ["--fps", str(rate), "--precision", precision, "--device", "cpu", "--threads", str(args.threads)]
            said = subprocess.run([*command, "--json", "--quiet"], check=True, capture_output=True, text=True)
            report = json.loads(said.stdout)
            assert report["rows"] == args.frames, report
            shutil.rmtree(out)
            return report

        rows = {}
        for _ in range(args.rounds):
            for precision in ("f32", "int8"):
                report = ours(precision)
                row = rows.setdefault(precision, {"moviola": [], "onnxruntime": [], "waited": []})
                row["moviola"].append(report["frames_per_second"])
                row["waited"].append(report["waited"] / report["seconds"])
                row["onnxruntime"].append(others[precision]())
        for row in rows.values():
            ratios = [a / b for a, b in zip(row["moviola"], row["onnxruntime"])]
            row["ratio"] = statistics.median(ratios)
            row["ratios"] = ratios
        versions = {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__}
        print(json.dumps({"frames": args.frames, "threads": args.threads, "versions": versions, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
