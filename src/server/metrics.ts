/**
 * Figures for Prometheus: vLLM's names, buckets and meanings under the prefix `hasten:`, so that its boards and alerts need another prefix and
 * nothing else. Latencies are counted here as events of the engine arrive; figures of the engine itself are asked for when they are read.
 * Knows nothing of HTTP.
 *
 * Meanings: https://docs.vllm.ai/en/latest/design/metrics.html
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { EngineStats } from '../engine/engine-stats.ts';
import type { FinishEvent } from '../engine/events.ts';

// vLLM's buckets, in seconds.
const TTFT_BUCKETS = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
  160, 640, 2560,
];
const TOKEN_BUCKETS = [
  0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
];
const REQUEST_BUCKETS = [
  0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
];

/** 1, 2, 5, 10, ... up to the longest sequence. */
function countBuckets(limit: number): number[] {
  const buckets: number[] = [];
  for (let power = 1; power <= limit; power *= 10) {
    buckets.push(...[power, 2 * power, 5 * power].filter((value) => value <= limit));
  }
  return buckets;
}

/** Longest sequence that the count buckets tell apart; buckets are fixed before the model is known. */
const LONGEST_SEQUENCE = 131_072;

/** Sums of an engine that begins at zero again when it is started again. */
interface EngineSums {
  numPreemptions: number;
  numDrafts: number;
  numDraftTokens: number;
  numAcceptedTokens: number;
  numAcceptedTokensPerPos: readonly number[];
  numSteps: number;
  /** KV blocks that left the pool for the tiers beyond it, and that came back. */
  numStored: number;
  numRestored: number;
  /** Those that were let go because the disk did not keep up. */
  numDropped: number;
}

const NO_SUMS: EngineSums = {
  numPreemptions: 0,
  numDrafts: 0,
  numDraftTokens: 0,
  numAcceptedTokens: 0,
  numAcceptedTokensPerPos: [],
  numSteps: 0,
  numStored: 0,
  numRestored: 0,
  numDropped: 0,
};

/** A finished request, times in seconds as its reader would have seen them. */
export interface FinishedFigures {
  readonly e2eS: number;
  /** null: there was no first token. */
  readonly ttftS: number | null;
  readonly finish: FinishEvent;
  /** Output tokens asked for, at most. */
  readonly maxTokens: number;
}

export class Metrics {
  readonly #registry = new Registry();
  readonly #ttft = this.#histogram(
    'time_to_first_token_seconds',
    'Arrival to first token',
    TTFT_BUCKETS,
  );
  readonly #itl = this.#histogram(
    'inter_token_latency_seconds',
    'Between two tokens of a request',
    TOKEN_BUCKETS,
  );
  readonly #tpot = this.#histogram(
    'request_time_per_output_token_seconds',
    'Mean time per token after the first, by request',
    TOKEN_BUCKETS,
  );
  readonly #e2e = this.#histogram('e2e_request_latency_seconds', 'Arrival to end', REQUEST_BUCKETS);
  readonly #queue = this.#histogram(
    'request_queue_time_seconds',
    'Arrival to the first step it took part in',
    REQUEST_BUCKETS,
  );
  readonly #prefill = this.#histogram(
    'request_prefill_time_seconds',
    'First step to first token',
    REQUEST_BUCKETS,
  );
  readonly #decode = this.#histogram(
    'request_decode_time_seconds',
    'First token to last token',
    REQUEST_BUCKETS,
  );
  readonly #inference = this.#histogram(
    'request_inference_time_seconds',
    'First step to last token',
    REQUEST_BUCKETS,
  );
  readonly #promptSizes = this.#histogram(
    'request_prompt_tokens',
    'Prompt tokens by request',
    countBuckets(LONGEST_SEQUENCE),
  );
  readonly #outputSizes = this.#histogram(
    'request_generation_tokens',
    'Output tokens by request',
    countBuckets(LONGEST_SEQUENCE),
  );
  readonly #maxTokens = this.#histogram(
    'request_params_max_tokens',
    'max_tokens by request',
    countBuckets(LONGEST_SEQUENCE),
  );
  readonly #running = this.#gauge('num_requests_running', 'Requests in the running batch');
  readonly #waiting = this.#gauge('num_requests_waiting', 'Requests that wait to be taken in');
  readonly #kvUsage = this.#gauge('kv_cache_usage_perc', 'KV blocks in use, 0 to 1');
  readonly #kvUnused = this.#gauge(
    'kv_cache_unused_slots',
    'Token slots of KV blocks in use that no token stands in',
  );
  readonly #pinnedBlocks = this.#gauge(
    'kv_cache_pinned_blocks',
    'KV blocks that pinned prefixes hold',
  );
  readonly #offloadBlocks = this.#gauge('kv_offload_blocks', 'KV blocks beyond the pool', ['tier']);
  readonly #offloadBytes = this.#gauge('kv_offload_bytes', 'Bytes of those', ['tier']);
  readonly #offloadStored = this.#counter(
    'kv_offload_stored_blocks_total',
    'KV blocks that left the pool for memory or disk',
  );
  readonly #offloadRestored = this.#counter(
    'kv_offload_restored_blocks_total',
    'KV blocks that a prompt found there and that came back',
  );
  readonly #offloadDropped = this.#counter(
    'kv_offload_dropped_blocks_total',
    'KV blocks that were let go because the disk did not keep up',
  );
  readonly #offloadFault = this.#gauge(
    'kv_offload_disk_fault',
    '1 after a fault of the disk, which is not used any more',
  );
  readonly #prefixQueries = this.#counter(
    'prefix_cache_queries_total',
    'Prompt tokens looked up in the prefix cache',
  );
  readonly #prefixHits = this.#counter(
    'prefix_cache_hits_total',
    'Prompt tokens found in the prefix cache',
  );
  readonly #promptTokens = this.#counter(
    'prompt_tokens_total',
    'Prompt tokens of finished requests',
  );
  readonly #outputTokens = this.#counter('generation_tokens_total', 'Tokens put out');
  readonly #success = this.#counter('request_success_total', 'Finished requests', [
    'finished_reason',
  ]);
  readonly #preemptions = this.#counter(
    'num_preemptions_total',
    'Requests that gave up their blocks to others',
  );
  readonly #drafts = this.#counter('spec_decode_num_drafts_total', 'Drafts checked');
  readonly #draftTokens = this.#counter('spec_decode_num_draft_tokens_total', 'Tokens drafted');
  readonly #acceptedTokens = this.#counter(
    'spec_decode_num_accepted_tokens_total',
    'Drafted tokens accepted',
  );
  readonly #acceptedPerPos = this.#counter(
    'spec_decode_num_accepted_tokens_per_pos_total',
    'Drafted tokens accepted, by place in the draft',
    ['position'],
  );
  readonly #cacheConfig = this.#gauge('cache_config_info', 'What the KV cache was set up with', [
    'block_size',
    'num_gpu_blocks',
    'num_cpu_blocks',
    'enable_prefix_caching',
  ]);
  readonly #rejections = this.#counter(
    'admission_rejections_total',
    'Requests refused before they reached the engine',
    ['reason'],
  );
  readonly #http = this.#counter('http_requests_total', 'Answered HTTP requests', [
    'method',
    'handler',
    'status',
  ]);
  readonly #restarts = this.#counter(
    'engine_restarts_total',
    'Engines started again after one died',
  );
  readonly #engineUp = this.#gauge('engine_up', '1 while the engine runs');
  #lastSums = NO_SUMS;

  constructor() {
    for (const reason of ['stop', 'length', 'abort', 'error']) {
      this.#success.inc({ finished_reason: reason }, 0);
    }
    collectDefaultMetrics({ register: this.#registry });
  }

  /** Begins every series with the model's name, as vLLM does. */
  setModel(name: string, { numBlocks, blockSize }: { numBlocks: number; blockSize: number }): void {
    this.#registry.setDefaultLabels({ model_name: name });
    this.#cacheConfig.set(
      {
        block_size: String(blockSize),
        num_gpu_blocks: '0',
        num_cpu_blocks: String(numBlocks),
        enable_prefix_caching: 'True',
      },
      1,
    );
  }

  setEngineUp(isUp: boolean): void {
    this.#engineUp.set(isUp ? 1 : 0);
  }

  restarted(): void {
    this.#restarts.inc();
  }

  observeFirstToken(ttftS: number): void {
    this.#ttft.observe(ttftS);
    this.#outputTokens.inc();
  }

  observeToken(sinceLastS: number): void {
    this.#itl.observe(sinceLastS);
    this.#outputTokens.inc();
  }

  observeFinish({ e2eS, ttftS, finish, maxTokens }: FinishedFigures): void {
    const { usage, timings, reason } = finish;
    this.#success.inc({ finished_reason: reason });
    this.#e2e.observe(e2eS);
    this.#maxTokens.observe(maxTokens);
    this.#outputSizes.observe(usage.completionTokens);
    this.#promptSizes.observe(usage.promptTokens);
    const { queueMs, promptMs, outputMs } = timings;
    if (queueMs !== null) {
      // It was looked up when it was taken in.
      this.#queue.observe(queueMs / 1000);
      this.#promptTokens.inc(usage.promptTokens);
      this.#prefixQueries.inc(usage.promptTokens);
      this.#prefixHits.inc(usage.cachedTokens);
    }
    if (promptMs !== null) this.#prefill.observe(promptMs / 1000);
    if (outputMs !== null) {
      this.#decode.observe(outputMs / 1000);
      this.#inference.observe((outputMs + (promptMs ?? 0)) / 1000);
    }
    if (ttftS !== null && usage.completionTokens > 1) {
      this.#tpot.observe((e2eS - ttftS) / (usage.completionTokens - 1));
    }
  }

  rejected(reason: string): void {
    this.#rejections.inc({ reason });
  }

  answered(method: string, handler: string, status: number): void {
    this.#http.inc({ method, handler, status: `${Math.floor(status / 100)}xx` });
  }

  /** Takes over what only the engine knows. */
  observeEngine(stats: EngineStats): void {
    this.#running.set(stats.numRunning);
    this.#waiting.set(stats.numWaiting);
    this.#kvUsage.set(1 - stats.numFreeBlocks / Math.max(1, stats.numBlocks));
    this.#kvUnused.set(stats.numUnusedSlots);
    this.#pinnedBlocks.set(stats.numPinnedBlocks);
    const { numPreemptions, numSteps, speculation, offload } = stats;
    if (offload !== null) {
      const { numMemoryBlocks, numDiskBlocks, blockBytes, diskFault } = offload;
      for (const [tier, count] of [
        ['memory', numMemoryBlocks],
        ['disk', numDiskBlocks],
      ] as const) {
        this.#offloadBlocks.set({ tier }, count);
        this.#offloadBytes.set({ tier }, count * blockBytes);
      }
      this.#offloadFault.set(diskFault === null ? 0 : 1);
    }
    const sums: EngineSums = {
      ...NO_SUMS,
      ...speculation,
      numPreemptions,
      numSteps,
      numStored: offload?.numStored ?? 0,
      numRestored: offload?.numRestored ?? 0,
      numDropped: offload?.numDropped ?? 0,
    };
    // Fewer steps than before: another engine.
    const last = sums.numSteps < this.#lastSums.numSteps ? NO_SUMS : this.#lastSums;
    this.#preemptions.inc(sums.numPreemptions - last.numPreemptions);
    this.#offloadStored.inc(sums.numStored - last.numStored);
    this.#offloadRestored.inc(sums.numRestored - last.numRestored);
    this.#offloadDropped.inc(sums.numDropped - last.numDropped);
    this.#drafts.inc(sums.numDrafts - last.numDrafts);
    this.#draftTokens.inc(sums.numDraftTokens - last.numDraftTokens);
    this.#acceptedTokens.inc(sums.numAcceptedTokens - last.numAcceptedTokens);
    sums.numAcceptedTokensPerPos.forEach((count, position) => {
      const more = count - (last.numAcceptedTokensPerPos[position] ?? 0);
      if (count > 0) this.#acceptedPerPos.inc({ position }, more);
    });
    this.#lastSums = sums;
  }

  /** Prometheus' text format, and its content type. */
  async render(): Promise<{ text: string; contentType: string }> {
    return { text: await this.#registry.metrics(), contentType: this.#registry.contentType };
  }

  #histogram(name: string, help: string, buckets: number[]): Histogram {
    return new Histogram({ name: `hasten:${name}`, help, buckets, registers: [this.#registry] });
  }

  #gauge<L extends string>(name: string, help: string, labelNames: L[] = []): Gauge<L> {
    return new Gauge({ name: `hasten:${name}`, help, labelNames, registers: [this.#registry] });
  }

  #counter<L extends string>(name: string, help: string, labelNames: L[] = []): Counter<L> {
    return new Counter({ name: `hasten:${name}`, help, labelNames, registers: [this.#registry] });
  }
}
