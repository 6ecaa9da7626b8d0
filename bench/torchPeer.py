"""The eager-PyTorch side of `npm run bench`: prepares one mode of one size, then runs it once for each line on
standard input and answers with the seconds it took; at the end of input, the peak memory in bytes.

usage: python torchPeer.py ORACLE_FOLDER SIZE encode|prefill|gradients|train|first-token|decode [THREADS]
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
if mode in ("first-token", "decode"):
    batch = 1


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


DECODED = 16
length = tokens.shape[1] - 2 + config.grid**2 + queries
past = [
    tuple(torch.randn(1, config.kv_heads, length, config.hidden // config.heads) for _ in "kv")
    for _ in range(config.layers)
]


def cached_layer(i, x, cos, sin, cache):
    """The oracle's decoder layer for one new position, over cached keys and values."""
    name = f"model.layers.{i}."
    width = config.hidden // config.heads
    h = oracle.rms_norm(weights, name + "input_layernorm", x, config.eps)
    if config.llm == "phi3":
        sizes = [config.heads * width, config.kv_heads * width, config.kv_heads * width]
        qkv = oracle.linear(weights, name + "self_attn.qkv_proj", h).split(sizes, -1)
    else:
        qkv = [oracle.linear(weights, name + f"self_attn.{n}_proj", h) for n in "qkv"]
    q, k, v = (t.unflatten(-1, (-1, width)).transpose(1, 2) for t in qkv)
    q, k = oracle.rotate(q, cos, sin), oracle.rotate(k, cos, sin)
    k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
    o = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    x = x + oracle.linear(weights, name + "self_attn.o_proj", o.transpose(1, 2).flatten(2))
    h = oracle.rms_norm(weights, name + "post_attention_layernorm", x, config.eps)
    if config.llm == "phi3":
        gate, up = oracle.linear(weights, name + "mlp.gate_up_proj", h).chunk(2, -1)
    else:
        gate, up = (oracle.linear(weights, name + f"mlp.{n}_proj", h) for n in ("gate", "up"))
    activated = torch.nn.functional.silu(gate) * up
    return x + oracle.linear(weights, name + "mlp.down_proj", activated), (k, v)


def decode():
    caches = list(past)
    for token in range(DECODED):
        x = weights["model.embed_tokens.weight"][torch.tensor([[token]])]
        cos, sin = oracle.rope_tables(config, torch.tensor([length + token]))
        for i in range(config.layers):
            x, caches[i] = cached_layer(i, x, cos, sin, caches[i])
        torch.nn.functional.linear(oracle.rms_norm(weights, "model.norm", x, config.eps), weights["lm_head.weight"])


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
        if mode == "decode":
            decode()
        elif mode == "encode":
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
