import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { FinishEvent } from '../engine/events.ts';
import { prepareRequest } from '../engine/request.ts';
import { LatencyWindow, RateWindow } from './latency-window.ts';
import { Telemetry } from './telemetry.ts';
import { EchoModel } from './testing/echo-model.ts';

const LIMITS = { vocabSize: 100, maxModelLen: 64, numBlocks: 8, blockSize: 16 };

function finishOf(requestId: string, completionTokens: number): FinishEvent {
  return {
    type: 'finish',
    requestId,
    reason: 'length',
    stopReason: null,
    text: '',
    usage: { promptTokens: 5, completionTokens, cachedTokens: 4 },
    timings: { queueMs: 10, promptMs: 20, ttftMs: 30, outputMs: 50, totalMs: 80 },
  };
}

/** The value of one series. */
function seriesOf(text: string, series: string): number {
  const line = text.split('\n').find((each) => each.startsWith(`${series} `));
  assert.ok(line, `${series} is missing`);
  return Number(line.slice(series.length));
}

describe('telemetry', () => {
  test('counts one request as vLLM does', async () => {
    let now = 1000;
    const telemetry = new Telemetry(() => now);
    telemetry.metrics.setModel('m', LIMITS);
    const request = prepareRequest(
      { requestId: 'r', promptTokenIds: [1, 2, 3, 4, 5], samplingParams: { maxTokens: 3 } },
      LIMITS,
    );
    telemetry.submitted(request);
    for (const ms of [1030, 1050, 1080]) {
      now = ms;
      telemetry.delivered({ type: 'token', requestId: 'r', tokenId: 1, text: '' });
    }
    assert.equal(telemetry.traffic.requests[0]?.outputTokens, 3);
    telemetry.delivered(finishOf('r', 3));
    telemetry.metrics.observeEngine(await new EchoModel().stats());
    const { text } = await telemetry.metrics.render();
    const value = (name: string, labels = 'model_name="m"') =>
      seriesOf(text, `hasten:${name}{${labels}}`);
    assert.equal(value('time_to_first_token_seconds_sum'), 0.03);
    assert.equal(value('time_to_first_token_seconds_bucket', 'le="0.02",model_name="m"'), 0);
    assert.equal(value('time_to_first_token_seconds_bucket', 'le="0.04",model_name="m"'), 1);
    assert.equal(value('inter_token_latency_seconds_count'), 2);
    assert.equal(value('request_time_per_output_token_seconds_sum'), 0.025);
    assert.equal(value('e2e_request_latency_seconds_sum'), 0.08);
    assert.equal(value('request_queue_time_seconds_sum'), 0.01);
    assert.equal(value('generation_tokens_total'), 3);
    assert.equal(value('prompt_tokens_total'), 5);
    assert.equal(value('prefix_cache_queries_total'), 5);
    assert.equal(value('prefix_cache_hits_total'), 4);
    assert.equal(value('request_success_total', 'finished_reason="length",model_name="m"'), 1);
    assert.equal(value('kv_cache_usage_perc'), 0.25);
    assert.equal(value('num_preemptions_total'), 3);
    assert.equal(value('kv_cache_pinned_blocks'), 2);
    assert.equal(value('kv_offload_blocks', 'tier="disk",model_name="m"'), 9);
    assert.equal(value('kv_offload_bytes', 'tier="memory",model_name="m"'), 4000);
    assert.equal(value('kv_offload_stored_blocks_total'), 20);
    assert.equal(value('kv_offload_dropped_blocks_total'), 5);
    assert.equal(value('kv_offload_disk_fault'), 0);
    assert.equal(
      value('spec_decode_num_accepted_tokens_per_pos_total', 'position="1",model_name="m"'),
      2,
    );
    assert.equal(telemetry.traffic.requests.length, 0);
    assert.equal(telemetry.typicalRequestMs, 80);
  });

  test('counters go on when another engine begins at zero', async () => {
    const { metrics } = new Telemetry();
    const stats = await new EchoModel().stats();
    metrics.observeEngine(stats);
    metrics.observeEngine(stats);
    const offload = { ...stats.offload!, numRestored: 1, diskFault: 'full' };
    metrics.observeEngine({ ...stats, numSteps: 1, numPreemptions: 2, offload });
    const { text } = await metrics.render();
    assert.equal(seriesOf(text, 'hasten:num_preemptions_total'), 5);
    assert.equal(seriesOf(text, 'hasten:kv_offload_restored_blocks_total'), 8);
    assert.equal(seriesOf(text, 'hasten:kv_offload_disk_fault'), 1);
  });
});

test('percentiles are those of the samples kept', () => {
  const window = new LatencyWindow();
  assert.equal(window.percentiles, null);
  for (let i = 1; i <= 100; i++) window.add(i);
  assert.deepEqual(window.percentiles, { p50: 50, p90: 90, p99: 99 });
  for (let i = 0; i < 5000; i++) window.add(7);
  assert.deepEqual(window.percentiles, { p50: 7, p90: 7, p99: 7 });
});

test('rates are of whole seconds, and forgotten after a minute', () => {
  const rate = new RateWindow();
  rate.add(3, 10_000);
  rate.add(4, 10_999);
  rate.add(5, 12_000);
  const at12 = rate.perSecond(12_500);
  assert.equal(at12.length, 59);
  assert.deepEqual(at12.slice(-3), [0, 7, 0]);
  assert.deepEqual(rate.perSecond(13_000).slice(-3), [7, 0, 5]);
  assert.ok(rate.perSecond(90_000).every((count) => count === 0));
});
