"""One model in f32 by transformers on the CPU: latency of single requests, and requests a second of batches. Prints one line of JSON.

    python -m pip install torch --index-url https://download.pytorch.org/whl/cpu
    python -m pip install transformers gguf accelerate

Takes the job as JSON: folder and file (GGUF), threads, promptTokens, outputTokens, clients (the batch), alone (requests), batches.
Greedy, without an end of text, from random prompts: what `hasten bench serve` asks of our own server.
"""

import json
import os
import sys
import time

import torch
from transformers import AutoModelForCausalLM

job = json.loads(sys.argv[1])
torch.set_num_threads(job["threads"])
torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(job["folder"], gguf_file=job["file"], dtype=torch.float32).eval()


def requests(batch):
    """Seconds that `batch` requests at once take."""
    ids = torch.randint(1000, 9999, (batch, job["promptTokens"]))
    count = job["outputTokens"]
    start = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=count,
            min_new_tokens=count,
            pad_token_id=0,
        )
    assert out.shape[1] == job["promptTokens"] + count
    return time.perf_counter() - start


requests(1)
alone = [requests(1) for _ in range(job["alone"])]
batches = [requests(job["clients"]) for _ in range(job["batches"])]
print(
    json.dumps(
        {
            "latencyMs": 1000 * sum(alone) / len(alone),
            "requestsPerSecond": job["clients"] * len(batches) / sum(batches),
            "sizeBytes": os.path.getsize(os.path.join(job["folder"], job["file"])),
        }
    )
)
