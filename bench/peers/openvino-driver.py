"""OpenVINO GenAI in process, as the scripts of bench/ ask for it: a load on its continuous batching, or speeds of prefill and decode.

    python openvino-driver.py serve|bench JSON
    python openvino-driver.py version

The JSON is an OpenVinoLoad or OpenVinoBench of bench/peers/openvino.ts; the answer is one line of JSON on stdout. Needs openvino-genai. Loads are what
`hasten bench serve` makes: prompts of random token ids, the first of them shared, greedy, the end token ignored; but without HTTP, which favours
this side.
"""

import json
import random
import resource
import sys
import time

import openvino as ov
import openvino_genai as genai


def properties(job):
    return {"INFERENCE_NUM_THREADS": job["threads"]}


def ids_tensor(token_ids):
    import numpy

    return ov.Tensor(numpy.array([token_ids], dtype=numpy.int64))


def config_of(num_tokens):
    config = genai.GenerationConfig()
    config.max_new_tokens = num_tokens
    config.min_new_tokens = num_tokens
    config.ignore_eos = True
    config.do_sample = False
    return config


class Request:
    def __init__(self, handle, arrival):
        self.handle = handle
        self.arrival = arrival
        self.times = []

    def take(self, now):
        """Whether it is over. Tokens of one read came at once."""
        while self.handle.can_read():
            for output in self.handle.read().values():
                self.times.extend([now] * len(output.generated_ids))
        return self.handle.get_status() != genai.GenerationStatus.RUNNING


def percentile(values, share):
    """By linear interpolation, as the load generator and vLLM have it."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * share
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def serve(job):
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = job["cacheGigabytes"]
    scheduler.max_num_batched_tokens = job["maxBatchedTokens"]
    scheduler.max_num_seqs = job["streams"]
    scheduler.dynamic_split_fuse = True
    scheduler.enable_prefix_caching = True
    pipeline = genai.ContinuousBatchingPipeline(job["model"], scheduler, "CPU", properties(job))
    config = config_of(job["outputTokens"])
    draw = random.Random(job["seed"])

    def token_ids(count):
        return [draw.randrange(100, job["vocabSize"]) for _ in range(count)]

    shared = token_ids(job["sharedTokens"])
    prompts = [
        ids_tensor(shared + token_ids(job["promptTokens"] - len(shared)))
        for _ in range(job["numRequests"] + 1)
    ]
    # One that is not counted, as the load generator sends.
    warm = pipeline.add_request(10**6, prompts.pop(), config)
    while pipeline.has_non_finished_requests():
        pipeline.step()
    while warm.can_read():
        warm.read()

    rate = job["requestRate"]
    start = time.perf_counter()
    arrivals = None
    if rate is not None:
        at = start
        arrivals = []
        for _ in prompts:
            arrivals.append(at)
            at += draw.expovariate(rate)
    sent = 0
    running = []
    done = []
    while len(done) < len(prompts):
        now = time.perf_counter()
        while sent < len(prompts):
            if arrivals is None and len(running) >= job["clients"]:
                break
            if arrivals is not None and arrivals[sent] > now:
                break
            arrival = now if arrivals is None else arrivals[sent]
            running.append(Request(pipeline.add_request(sent, prompts[sent], config), arrival))
            sent += 1
        if not running:
            time.sleep(max(0, arrivals[sent] - now))
            continue
        pipeline.step()
        now = time.perf_counter()
        still = []
        for request in running:
            (done if request.take(now) else still).append(request)
        running = still
    duration = time.perf_counter() - start
    return figures(job, done, duration)


def figures(job, done, duration):
    ttft = [1000 * (r.times[0] - r.arrival) for r in done]
    itl = [1000 * (b - a) for r in done for a, b in zip(r.times, r.times[1:])]
    e2e = [1000 * (r.times[-1] - r.arrival) for r in done]
    num_out = sum(len(r.times) for r in done)
    answer = {
        "sent": len(done),
        "completed": sum(len(r.times) == job["outputTokens"] for r in done),
        "refused": 0,
        "failed": 0,
        "duration": duration,
        "total_input_tokens": len(done) * job["promptTokens"],
        "total_output_tokens": num_out,
        "total_cached_tokens": 0,
        "request_throughput": len(done) / duration,
        "output_throughput": num_out / duration,
        "client_cpu_share": 0,
        "classes": {},
        "peakMemoryBytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    for name, values in (("ttft", ttft), ("itl", itl), ("e2el", e2e)):
        answer[f"mean_{name}_ms"] = sum(values) / len(values)
        answer[f"p50_{name}_ms"] = percentile(values, 0.5)
        answer[f"p99_{name}_ms"] = percentile(values, 0.99)
    return answer


def bench(job):
    """Tokens per second of each repetition: a prompt in one go for one token, and tokens one by one after a prompt of one."""
    options = {**properties(job), "ATTENTION_BACKEND": job["attentionBackend"]}
    if job["attentionBackend"] == "PA":
        options["scheduler_config"] = genai.SchedulerConfig()
        options["scheduler_config"].max_num_batched_tokens = max(512, job["promptTokens"])
        options["scheduler_config"].enable_prefix_caching = False
        options["scheduler_config"].cache_size = 1
    pipeline = genai.LLMPipeline(job["model"], "CPU", **options)
    draw = random.Random(1)
    rates = {}

    def run(num_prompt, num_out):
        prompt = ids_tensor([draw.randrange(100, job["vocabSize"]) for _ in range(num_prompt)])
        return pipeline.generate(prompt, config_of(num_out)).perf_metrics

    for repetition in range(job["repetitions"] + 1):
        if job["promptTokens"] > 0:
            ms = run(job["promptTokens"], 1).get_ttft().mean
            if repetition > 0:
                key = f"pp{job['promptTokens']}"
                rates.setdefault(key, []).append(1000 * job["promptTokens"] / ms)
        if job["generatedTokens"] > 0:
            ms = run(1, job["generatedTokens"] + 1).get_tpot().mean
            if repetition > 0:
                rates.setdefault(f"tg{job['generatedTokens']}", []).append(1000 / ms)
    return {"tokensPerSecond": rates}


if __name__ == "__main__":
    mode = sys.argv[1]
    if mode == "version":
        print(json.dumps({"version": genai.__version__}))
    else:
        print(json.dumps({"serve": serve, "bench": bench}[mode](json.loads(sys.argv[2]))))
