import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { FakeServer, type Script } from '../../src/loadgen/testing/fake-server.ts';
import { serveCases } from './cases.ts';
import { compareServers, medianOf, type ServePlan, serveDuels } from './comparison.ts';
import { serveDuelTable, serveRawTable } from './comparison-report.ts';
import { type ComparedServer, overHttp } from './servers.ts';

function fake(name: string, setting: string, script: () => Script): ComparedServer {
  return overHttp({
    ...{ name, setting, version: '1' },
    isDistinct: (streams) => setting !== 'few slots' || streams > 1,
    start: async () => {
      const server = await FakeServer.start(script);
      return {
        url: server.url,
        peakMemoryBytes: () => 5e6,
        [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
      };
    },
  });
}

const plan = (servers: readonly ComparedServer[], cases = serveCases([1], 0.3)): ServePlan => ({
  ...{ modelPath: 'm.gguf', servers, cases, threads: 1, contextTokens: 1024, rounds: 1 },
  quiet: { maxLoad: 1, attempts: 1, waitMs: 0 },
});

describe('serveCases', () => {
  it('has closed loads, a shared prefix, and offered rates of what the peer reached', () => {
    const cases = serveCases([1, 16], 1);
    assert.deepEqual(
      cases.map(({ name, numRequests }) => `${name}: ${numRequests}`),
      [
        '190 + 64, 1 client: 12',
        '190 + 64, 16 clients: 48',
        '600 (470 shared) + 64, 16 clients: 48',
        "190 + 64, 50% of the peer's rate: 48",
        "190 + 64, 90% of the peer's rate: 48",
      ],
    );
  });
});

describe('a comparison of servers', () => {
  it('sets hasten beside the best setting of the peer, and keeps what failed', async () => {
    const answer = (firstMs: number) => () => ({ kind: 'answer', firstMs }) as const;
    const servers = [
      fake('hasten', '', answer(5)),
      fake('peer', 'slow', answer(120)),
      fake('peer', 'quick', answer(40)),
      fake('peer', 'few slots', answer(1)),
      fake('broken', '', () => ({ kind: 'status', status: 500 })),
    ];
    const [one] = serveCases([1], 0.3);
    const { rows, failures } = await compareServers(plan(servers, [one!]));
    assert.deepEqual(
      rows.map(({ server, setting }) => `${server} ${setting}`),
      ['hasten ', 'peer slow', 'peer quick'],
    );
    assert.equal(failures.length, 1);
    assert.match(failures[0]!.message, /told to say 500/);
    const [duel, ...others] = serveDuels(rows);
    assert.deepEqual(others, []);
    assert.equal(duel?.peer.setting, 'quick');
    const ratio =
      medianOf(duel!.hasten, 'request_throughput') / medianOf(duel!.peer, 'request_throughput');
    assert.ok(ratio > 1, `${ratio}`);
    assert.match(serveDuelTable(rows), /190 \+ 64, 1 client +\| peer, quick/);
    assert.match(serveRawTable(rows), /5(?:\.00)? MB/);
  });

  it('offers both the share of what the best peer reached', async () => {
    const servers = [
      fake('hasten', '', () => ({ kind: 'answer' })),
      fake('peer', '', () => ({ kind: 'answer', firstMs: 100 })),
    ];
    const cases = serveCases([16], 0.4).filter(({ sharedTokens }) => sharedTokens === 0);
    const { rows } = await compareServers(plan(servers, cases));
    const peak = rows.find(({ server }) => server === 'peer');
    const open = rows.filter(({ requestRate }) => requestRate !== null);
    const offered = medianOf(peak!, 'request_throughput');
    const rates = open.map(({ requestRate }) => Number((requestRate! / offered).toFixed(6)));
    assert.deepEqual(rates, [0.5, 0.5, 0.9, 0.9]);
  });
});
