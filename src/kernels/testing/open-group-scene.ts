/** Open groups of the sequences of an attention scene: those of all positions that have a query. */
import { rotateHead, rotationSize } from '../../tensor/kv-row.ts';
import {
  KV_GROUP_TOKENS,
  type KvShape,
  keyBlockBytes,
  keyPlace,
  valuePlace,
} from '../kv-layout.ts';
import { openGroupBytes } from '../open-group.ts';
import { keyAddress, type Sequence, valueAddress } from './kv-address.ts';
import { type Fields, range } from './run-kernel.ts';

export interface OpenGroupScene {
  readonly fields: Fields;
  /** As groups hold them, per sequence `[tokens, numKvHeads * headDim]`. */
  readonly keys: readonly Float64Array[];
  readonly values: readonly Float64Array[];
  groupOf(sequence: number, position: number): number;
}

/** Own and step groups take turns. @param rows exact keys and values, per sequence `[tokens, numKvHeads * headDim]` */
export function openGroupScene(
  { numKvHeads, headDim }: Pick<KvShape, 'numKvHeads' | 'headDim'>,
  sequences: readonly Sequence[],
  rows: { readonly keys: readonly Float32Array[]; readonly values: readonly Float32Array[] },
): OpenGroupScene {
  const shape: KvShape = { numKvHeads, headDim, kvType: 'open' };
  const firstGroup = ({ contextLen, queryLen }: Sequence): number =>
    Math.floor((contextLen - queryLen) / KV_GROUP_TOKENS);
  const counts = sequences.map(
    (sequence) => Math.ceil(sequence.contextLen / KV_GROUP_TOKENS) - firstGroup(sequence),
  );
  const numGroups = counts.reduce((sum, count) => sum + count, 0);
  const numOwnGroups = Math.ceil(numGroups / 2);
  const bytes = openGroupBytes(shape);
  const own = new Uint8Array(numOwnGroups * bytes).fill(0xff);
  const step = new Uint8Array(numOwnGroups * bytes).fill(0xff);
  const firstIds = counts.map((_, s) => counts.slice(0, s).reduce((sum, n) => sum + n, 0));
  const groupOf = (s: number, position: number): number => {
    const index = firstIds[s]! + Math.floor(position / KV_GROUP_TOKENS) - firstGroup(sequences[s]!);
    return (index % 2) * numOwnGroups + (index >> 1);
  };
  const [keys, values] = [rows.keys, rows.values].map((all) =>
    all.map((row) => new Float64Array(row.length)),
  ) as [Float64Array[], Float64Array[]];
  const writeHead = (s: number, t: number, h: number): void => {
    const group = groupOf(s, t);
    const memory = group < numOwnGroups ? own : step;
    const view = new DataView(memory.buffer, (group % numOwnGroups) * bytes, bytes);
    const at = (t * numKvHeads + h) * headDim;
    const token = t % KV_GROUP_TOKENS;
    const rotated = rows.values[s]!.slice(at, at + headDim);
    rotateHead(rotated);
    const stored = Float64Array.from(rotated, Math.f16round);
    const keyStart = keyAddress(shape, 0, h).elements;
    const valueStart = keyBlockBytes(shape) + valueAddress(shape, token, h).elements;
    for (const d of range(headDim)) {
      const key = Math.f16round(rows.keys[s]![at + d]!);
      keys[s]![at + d] = key;
      view.setFloat16(keyStart + keyPlace('open', d, token).offsetBytes, key, true);
      view.setFloat16(valueStart + valuePlace('open', d).offsetBytes, stored[d]!, true);
    }
    rotateHead(stored);
    values[s]!.set(
      stored.map((x) => x / rotationSize(headDim)),
      at,
    );
  };
  sequences.forEach((sequence, s) => {
    const start = firstGroup(sequence) * KV_GROUP_TOKENS;
    for (let t = start; t < sequence.contextLen; t++) {
      for (const h of range(numKvHeads)) writeHead(s, t, h);
    }
  });
  const fields = { ownGroups: own, stepGroups: step, numOwnGroups };
  return { fields, keys, values, groupOf };
}
