import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { MachineReport } from '../machine.ts';
import { type ComparisonPlan, compare, duels, schedule } from './comparison.ts';
import { formatComparison } from './comparison-report.ts';
import type { Engine } from './engines.ts';

const machine: MachineReport = {
  ...{ cpu: 'A CPU', vendor: 'v', cores: 2, logicalCpus: 2, features: ['avx2'] },
  ...{ cacheBytes: { l1d: 32768, l2: 1 << 20, l3: 1 << 24 }, memoryBytes: 2 ** 33 },
  ...{ kernel: '6.0', node: '26', date: '2026-01-01' },
  readBandwidth: { 1: { best: 10e9, median: 9e9 } },
  readPattern: { 1: { numStreams: 1, prefetchBytes: 0 } },
  isas: [
    { isa: 'avx2', int8: { 1: { best: 100e9, median: 90e9 } }, f32: { 1: { best: 1, median: 1 } } },
  ],
};

const engine = (name: string, setting: string, rates: number[]): Engine => {
  let round = 0;
  return {
    ...{ name, setting, isa: undefined, version: '1' },
    run: async () => {
      const rate = rates[round++];
      if (rate === undefined) throw new Error(`${name} broke`);
      return { tg128: rate, pp512: 10 * rate };
    },
  };
};

function planOf(engines: Engine[]): ComparisonPlan {
  const work = { fileBytes: 1, vocabSize: 9, decodeBytes: 1e9, layerOps: 1e9, headOps: 0 };
  return {
    ...{ models: [{ name: 'm', path: 'm.gguf', work }], engines, threads: [1] },
    ...{ promptTokens: 512, generatedTokens: 128, rounds: 3, repetitions: 1, quiet: null },
  };
}

describe('comparison', () => {
  it('reverses the order every round', () => {
    const plan = planOf([engine('hasten', '', []), engine('peer', '', [])]);
    const names = schedule(plan).map((runs) => runs.map((run) => run.engine.name));
    assert.deepEqual(names, [
      ['hasten', 'peer'],
      ['peer', 'hasten'],
      ['hasten', 'peer'],
    ]);
  });

  it('takes medians of rounds, shares of the limits, and the best setting of the peer', async () => {
    const engines = [
      engine('hasten', '', [4, 6, 5]),
      engine('peer', 'fa off', [1, 2, 3]),
      engine('peer', 'fa on', [2, 9, 4]),
    ];
    const { rows, failures } = await compare(planOf(engines), async () => machine);
    assert.deepEqual(failures, []);
    const [tg, pp] = ['tg128', 'pp512'].map(
      (test) => duels(rows).find((d) => d.hasten.test === test)!,
    );
    assert.equal(tg!.peer.setting, 'fa on');
    assert.equal(tg!.ratio, 5 / 4);
    assert.equal(tg!.hasten.bytesPerSecond, 5e9);
    assert.equal(tg!.hasten.limitShare, 0.5);
    assert.equal(tg!.hasten.medianLimitShare, 5 / 9);
    assert.equal(pp!.hasten.opsPerSecond, 50e9);
    assert.equal(pp!.hasten.limitShare, 0.5);
  });

  it('keeps the rows that were lost, in bold, and lists runs that failed', async () => {
    const engines = [engine('hasten', '', [1, 1, 1]), engine('peer', '', [2, 2])];
    const { rows, failures } = await compare(planOf(engines), async () => machine);
    assert.equal(failures.length, 1);
    const text = formatComparison({
      ...{ command: 'c', machine, rounds: 3, repetitions: 1, versions: {}, models: [] },
      ...{ rows, failures },
    });
    assert.match(text, /\*\*0\.50x\*\*/);
    assert.match(text, /- peer on m, 1 threads: peer broke/);
  });
});
