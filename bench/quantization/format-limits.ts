/**
 * What limits each format: how far it is from our own f32, and how near to what the machine can read and multiply at best. Decoding alone reads every weight
 * for one token; a prompt, and a batch of many sequences, multiply each weight that was read with many tokens. Pure arithmetic; knows nothing of measuring.
 */
import { type ModelWork, prefillOpsPerToken } from '../compare/model-work.ts';
import { markdownTable, percent, significant } from '../lib/table.ts';
import type { MachineReport } from '../machine.ts';
import type { FormatRow } from './formats.ts';

export interface Load {
  readonly promptTokens: number;
  readonly outputTokens: number;
  readonly clients: number;
}

/** What the machine can do at best, on all threads together. */
export interface Peaks {
  /** Bytes per second. */
  readonly read: number;
  /** Operations per second; a multiply-add is two. */
  readonly f32: number;
  readonly int8: number;
}

export interface FormatLimits {
  /** Of a request alone: share of the time until its first token. */
  readonly promptShare: number;
  /** Bytes per second while one sequence decodes, and their share of the peak. */
  readonly bytesPerSecond: number;
  readonly readShare: number;
  /** Operations per second of a prompt, and their share of the peak of its arithmetic. */
  readonly opsPerSecond: number;
  readonly opsShare: number;
  /** Requests per second if prompts ran at the peak and each step of all clients at the slower of reading and multiplying. */
  readonly bestRequestsPerSecond: number;
}

/** @param arithmetic that the format's products are made in */
export function limitsOf(
  row: { readonly latencyMs: number; readonly ttftMs: number; readonly work: ModelWork },
  { promptTokens, outputTokens, clients }: Load,
  peaks: Peaks,
  arithmetic: 'f32' | 'int8',
): FormatLimits {
  const { work, latencyMs, ttftMs } = row;
  const peak = peaks[arithmetic];
  const promptOps = promptTokens * prefillOpsPerToken(work, promptTokens);
  const tokensPerSecond = (1000 * (outputTokens - 1)) / (latencyMs - ttftMs);
  const bytesPerSecond = tokensPerSecond * work.decodeBytes;
  const opsPerSecond = promptOps / (ttftMs / 1000);
  const step = Math.max(
    work.decodeBytes / peaks.read,
    (clients * (work.layerOps + work.headOps)) / peak,
  );
  return {
    ...{ bytesPerSecond, opsPerSecond, promptShare: ttftMs / latencyMs },
    readShare: bytesPerSecond / peaks.read,
    opsShare: opsPerSecond / peak,
    bestRequestsPerSecond: 1 / (promptOps / peak + (outputTokens / clients) * step),
  };
}

/** Of the best instruction set. */
export function peaksOf({ readBandwidth, isas }: MachineReport, threads: number): Peaks {
  const best = (kind: 'int8' | 'f32'): number =>
    Math.max(...isas.map((isa) => isa[kind][threads]!.best));
  return { read: readBandwidth[threads]!.best, f32: best('f32'), int8: best('int8') };
}

export interface LimitsPlan {
  readonly threads: number;
  readonly load: Load;
  /** Name of the row that the others are compared with; its products are f32, all others' int8. */
  readonly own: string;
  readonly machine: MachineReport;
}

/** A table and what it says; empty where no row of ours is there. */
export function formatLimits(
  rows: readonly FormatRow[],
  { threads, load, own, machine }: LimitsPlan,
): string {
  const base = rows.find(({ name }) => name === own);
  if (base === undefined) return '';
  const peaks = peaksOf(machine, threads);
  const table = markdownTable(
    [
      ...['weights', 'latency of own f32', 'req/s of own f32', 'MB a token', 'prompt of latency'],
      ...['decode reads', 'of peak', 'prompt', 'of peak', 'req/s at peaks', 'reached'],
    ],
    rows.flatMap((row) => {
      const { work, ttftMs, latencyMs, requestsPerSecond } = row;
      if (work === null || ttftMs === null) return [];
      const arithmetic = row.name === own ? 'f32' : 'int8';
      const limits = limitsOf({ work, ttftMs, latencyMs }, load, peaks, arithmetic);
      const times = (value: number): string => `${significant(value)}x`;
      return [
        [
          ...[row.name, times(latencyMs / base.latencyMs)],
          times(requestsPerSecond / base.requestsPerSecond),
          `${significant(work.decodeBytes / 1e6)} MB`,
          percent(limits.promptShare),
          ...[`${significant(limits.bytesPerSecond / 1e9)} GB/s`, percent(limits.readShare)],
          ...[`${significant(limits.opsPerSecond / 1e9)} GOPS`, percent(limits.opsShare)],
          significant(limits.bestRequestsPerSecond),
          percent(requestsPerSecond / limits.bestRequestsPerSecond),
        ],
      ];
    }),
  );
  const giga = (value: number): string => significant(value / 1e9);
  return [
    `**What limits them.** On ${threads} thread${threads === 1 ? '' : 's'} this machine reads ${giga(peaks.read)} GB/s and multiplies ${giga(peaks.f32)} GFLOP/s in f32, ${giga(peaks.int8)} GOPS in int8 (\`bench/machine.ts\`, best of many short rounds). A request alone is its prompt, bound by multiplying, and then a token after the other, bound by reading all weights for each. Bits are saved in the second part only; the first gains what int8 has over f32, ${significant(peaks.int8 / peaks.f32)}x here, at 8 bits as at 4. With ${load.clients} clients a step reads the weights once for all of them, so requests a second follow multiplying, too. "At peaks" is the sum of both at the machine's limits, without attention, sampling, HTTP or waiting; keys and values are not counted as bytes. Where prompt lookup drafts tokens that hold, several share one read of the weights: decoding then seems to read more than the machine can.`,
    table,
  ].join('\n\n');
}
