import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { MachineReport } from '../machine.ts';
import { formatLimits, limitsOf } from './format-limits.ts';
import type { FormatRow } from './formats.ts';

/** 1 GB and 10 Gop a token, head included. */
const work = { fileBytes: 2e9, vocabSize: 1000, decodeBytes: 1e9, layerOps: 9e9, headOps: 1e9 };
const peaks = { read: 20e9, f32: 100e9, int8: 1000e9 };
const load = { promptTokens: 100, outputTokens: 11, clients: 4 };

describe('what limits a format', () => {
  it('is reading for one sequence and multiplying for prompts', () => {
    // 901 Gop of prompt in 2 s; 10 further tokens in 1 s.
    const limits = limitsOf({ work, ttftMs: 2000, latencyMs: 3000 }, load, peaks, 'int8');
    assert.equal(limits.promptShare, 2 / 3);
    assert.equal(limits.bytesPerSecond, 10e9);
    assert.equal(limits.readShare, 0.5);
    assert.equal(limits.opsPerSecond, 901e9 / 2);
    assert.equal(limits.opsShare, 0.4505);
    // A step of four: 50 ms of reading, 40 of multiplying.
    assert.equal(limits.bestRequestsPerSecond, 1 / (0.901 + (11 / 4) * 0.05));
  });

  it('is multiplying for a step of many sequences in slow arithmetic', () => {
    const limits = limitsOf({ work, ttftMs: 2000, latencyMs: 3000 }, load, peaks, 'f32');
    assert.equal(limits.bestRequestsPerSecond, 1 / (9.01 + (11 / 4) * 0.4));
  });

  it('is a row for each of our own formats, beside our own f32', () => {
    const row = { sizeBytes: 2e9, quality: null, foreignLoad: 0, ttftMs: 2000, work };
    const rows: FormatRow[] = [
      { ...row, name: 'peer', latencyMs: 9000, requestsPerSecond: 0.1, ttftMs: null, work: null },
      { ...row, name: 'own', latencyMs: 6000, requestsPerSecond: 0.05 },
      { ...row, name: 'INT8', latencyMs: 3000, requestsPerSecond: 0.5 },
    ];
    const rate = (best: number) => ({ 2: { best, median: best } });
    const machine = {
      readBandwidth: rate(peaks.read),
      isas: [
        { isa: 'avx2', f32: rate(1), int8: rate(1) },
        { isa: 'avx512vnni', f32: rate(peaks.f32), int8: rate(peaks.int8) },
      ],
    } as unknown as MachineReport;
    const plan = { threads: 2, load, own: 'own', machine };
    const lines = formatLimits(rows, plan).split('\n');
    const cells = (line: string): string[] => line.split('|').map((cell) => cell.trim());
    assert.match(lines[0]!, /20 GB\/s and multiplies 100 GFLOP\/s in f32, 1000 GOPS in int8/);
    assert.deepEqual(
      lines.slice(4).map((line) => cells(line)[1]),
      ['own', 'INT8'],
    );
    assert.deepEqual(cells(lines[5]!).slice(1, -1), [
      ...['INT8', '0.5x', '10x', '1000 MB', '67%', '10 GB/s', '50%', '451 GOPS', '45%'],
      ...['0.963', '52%'],
    ]);
    assert.equal(formatLimits(rows, { ...plan, own: 'none' }), '');
  });
});
