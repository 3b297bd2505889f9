import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeQ8Row, q8RowBytes } from './activation-format.ts';
import type { PagedAttentionShape } from './attention-shape.ts';
import { spanStateBytes } from './attention-spans.ts';
import { mergeAttentionKernel } from './merge-attention.ts';
import { pagedAttentionKernel } from './paged-attention.ts';
import { attentionReference, type Scene, scene } from './testing/attention-scene.ts';
import {
  type Fields,
  f32Of,
  INTERPRETED_MACHINES,
  NATIVE_MACHINES,
  nativeMachineNames,
  range,
  type TestMachine,
} from './testing/run-kernel.ts';
import { SPAN_TOKENS, TILE_ENTRY } from './tile-entry.ts';

const FIELDS = TILE_ENTRY.bytes / 4;

/** The output when every tile walks its context alone. */
function wholeOutput(machine: TestMachine, { shape, fields, numChunks }: Scene): Uint8Array {
  const program = pagedAttentionKernel(machine.machine, shape);
  return machine.run(program, fields, range(numChunks)).out!;
}

/** The output when every tile is split into its spans, done in descending order, and then merged. */
function splitOutput(machine: TestMachine, { shape, sequences, fields }: Scene): Uint8Array {
  const whole = fields.tiles as Int32Array;
  const tiles: number[] = [];
  const merges: number[] = [];
  let numParts = 0;
  for (let at = 0; at < whole.length; at += FIELDS) {
    const [s, first, numTokens] = whole.subarray(at, at + 3) as unknown as [number, number, number];
    const openGroup = whole[at + FIELDS - 1]!;
    const numSpans = Math.ceil(sequences[s]!.contextLen / SPAN_TOKENS);
    merges.push(s, first, numTokens, 0, numSpans, 0, numParts, 0);
    for (const span of range(numSpans)) {
      tiles.push(s, first, numTokens, span, span + 1, 1, numParts + span * numTokens, openGroup);
    }
    numParts += numSpans * numTokens;
  }
  const parts = new Uint8Array(numParts * shape.numHeads * spanStateBytes(shape.headDim)).fill(255);
  const chunksOf = (entries: readonly number[]) =>
    range((entries.length / FIELDS) * shape.numKvHeads).reverse();
  const attended = machine.run(
    pagedAttentionKernel(machine.machine, shape),
    { ...fields, tiles: Int32Array.from(tiles), parts },
    chunksOf(tiles),
  );
  const mergeFields: Fields = {
    ...fields,
    merges: Int32Array.from(merges),
    parts: attended.parts!,
    out: attended.out!,
  };
  const program = mergeAttentionKernel(machine.machine, shape);
  return machine.run(program, mergeFields, chunksOf(merges)).out!;
}

const BASE = { scale: 0.2, window: null, kvType: 'f16', queryTokens: 4, output: 'f32' } as const;

test(`a split context gives the very bits of one walk (${nativeMachineNames()})`, () => {
  const shapes: readonly PagedAttentionShape[] = [
    { ...BASE, numHeads: 6, numKvHeads: 2, headDim: 64 },
    { ...BASE, numHeads: 2, numKvHeads: 2, headDim: 80, kvType: 'f32' },
    { ...BASE, numHeads: 7, numKvHeads: 1, headDim: 256, queryTokens: 1, scale: 1 / 16 },
    { ...BASE, numHeads: 3, numKvHeads: 1, headDim: 24, window: 300 },
    { ...BASE, numHeads: 3, numKvHeads: 1, headDim: 32, window: 40, queryTokens: 16 },
    { ...BASE, numHeads: 6, numKvHeads: 2, headDim: 64, kvType: 'q8' },
    { ...BASE, numHeads: 6, numKvHeads: 2, headDim: 80, kvType: 'q4' },
  ];
  const sequences = [
    { contextLen: 3 * SPAN_TOKENS + 17, queryLen: 1 },
    { contextLen: SPAN_TOKENS + 3, queryLen: 9 },
    { contextLen: 2 * SPAN_TOKENS, queryLen: 6 },
    { contextLen: 30, queryLen: 30 },
  ];
  for (const shape of shapes) {
    const s = scene(shape, sequences);
    const expected = attentionReference(s);
    for (const machine of NATIVE_MACHINES) {
      const whole = wholeOutput(machine, s);
      assert.deepEqual(splitOutput(machine, s), whole, `${machine.name} ${JSON.stringify(shape)}`);
      f32Of(whole).forEach((y, i) => {
        assert.ok(Math.abs(y - expected[i]!) < 1e-5, `out[${i}] is ${y}, expected ${expected[i]}`);
      });
    }
  }
});

test('interpreted code splits and merges to the same bits too', () => {
  for (const kvType of ['f16', 'q4'] as const) {
    const shape = { ...BASE, numHeads: 2, numKvHeads: 1, headDim: 8, kvType };
    const s = scene(shape, [{ contextLen: 2 * SPAN_TOKENS + 5, queryLen: 7 }]);
    for (const machine of INTERPRETED_MACHINES) {
      assert.deepEqual(splitOutput(machine, s), wholeOutput(machine, s), machine.name);
    }
  }
});

test('q8 output is the quantized f32 output, bit for bit, whole or split', () => {
  for (const headDim of [32, 64, 96]) {
    const shape = { ...BASE, numHeads: 4, numKvHeads: 2, headDim };
    const width = 4 * headDim;
    const rowBytes = q8RowBytes(width);
    const plain = scene(shape, [
      { contextLen: SPAN_TOKENS + 40, queryLen: 5 },
      { contextLen: 20, queryLen: 2 },
    ]);
    const numTokens = plain.q.length / width;
    const quantized: Scene = {
      ...plain,
      shape: { ...shape, output: 'q8' },
      fields: { ...plain.fields, out: new Uint8Array(numTokens * rowBytes), outStride: rowBytes },
    };
    for (const machine of [...NATIVE_MACHINES, ...INTERPRETED_MACHINES.slice(0, 1)]) {
      const values = f32Of(wholeOutput(machine, plain));
      const expected = new Uint8Array(numTokens * rowBytes);
      const view = new DataView(expected.buffer);
      for (const t of range(numTokens)) {
        encodeQ8Row(values.subarray(t * width, (t + 1) * width), view, t * rowBytes);
      }
      assert.deepEqual(wholeOutput(machine, quantized), expected, machine.name);
      assert.deepEqual(splitOutput(machine, quantized), expected, machine.name);
    }
  }
});
