"""The eager-PyTorch side of `npm run bench`: prepares one mode of one size, then runs it once for each line on
standard input and answers with the seconds it took; at the end of input, the peak memory in bytes.

usage: python torchPeer.py ORACLE_FOLDER SIZE encode|prefill|gradients|train [THREADS]
ORACLE_FOLDER holds fusion_oracle.py and bench_torch.py, whose sizes and random weights are used.
"""
import resource
import sys
import time

sys.path.insert(0, sys.argv[1])
import bench_torch
import fusion_oracle as oracle
import torch

size, mode, threads = sys.argv[2], sys.argv[3], int(sys.argv[4]) if len(sys.argv) > 4 else 2
torch.set_num_threads(threads)
torch.manual_seed(0)
config, batch, queries, text = bench_torch.CONFIGS[size]
weights = bench_torch.weights(config)


def ids(count):
    return torch.randint(8, config.vocab, (batch, count))


def sentinel(value):
    return torch.full((batch, 1), value)


question = ids(12)
tokens = torch.cat([ids(4), sentinel(oracle.LATENT), ids(2), sentinel(oracle.IMAGE), ids(text)], 1)
labels = torch.full_like(tokens, oracle.IGNORE)
labels[:, -text // 2 - 1] = oracle.INSTRUCT
labels[:, -text // 2 :] = tokens[:, -text // 2 :]
images = torch.randn(batch, 5, 3, config.image_size, config.image_size)
if mode in ("gradients", "train"):
    for weight in weights.values():
        weight.requires_grad_(True)
optimizer = torch.optim.AdamW(weights.values(), lr=1e-4, foreach=True) if mode == "train" else None


def run():
    if mode in ("gradients", "train"):
        for weight in weights.values():
            weight.grad = None
        oracle.forward(weights, config, tokens, images, question, labels=labels, query_len=queries)["loss"].backward()
        if optimizer is not None:
            torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
            optimizer.step()
        return
    with torch.inference_mode():
        if mode == "encode":
            oracle.image_features(weights, config, images, question, queries)
        else:
            oracle.forward(weights, config, tokens, images, question, query_len=queries)


run()
print("ready", flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    run()
    print(f"{time.perf_counter() - start:.5f}", flush=True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)
