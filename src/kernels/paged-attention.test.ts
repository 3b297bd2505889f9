import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lowerToX64 } from '../targets/x64/lower.ts';
import { KernelShapeError } from './errors.ts';
import type { VectorMachine } from './kernel-ir.ts';
import { KV_BLOCK_SIZE, keyBlockBytes, valueBlockBytes, valueRowElements } from './kv-layout.ts';
import { type PagedAttentionShape, pagedAttentionKernel } from './paged-attention.ts';
import {
  type Fields,
  f32Of,
  NATIVE_MACHINES,
  nativeMachineNames,
  randomF32,
  randomSource,
  range,
  runEverywhere,
} from './testing/run-kernel.ts';

interface Sequence {
  readonly contextLen: number;
  /** Query tokens of the step, its last ones. */
  readonly queryLen: number;
}

interface Scene {
  readonly shape: PagedAttentionShape;
  readonly sequences: readonly Sequence[];
  /** q of all tokens of the step, `[numTokens, numHeads * headDim]`. */
  readonly q: Float32Array;
  /** Per sequence `[contextLen, numKvHeads * headDim]`, as the cache holds them. */
  readonly keys: readonly Float32Array[];
  readonly values: readonly Float32Array[];
  readonly fields: Fields;
  readonly numChunks: number;
}

function setElement(
  shape: PagedAttentionShape,
  view: DataView,
  index: number,
  value: number,
): void {
  if (shape.kvType === 'f16') view.setFloat16(2 * index, value, true);
  else view.setFloat32(4 * index, value, true);
}

/** Sequences in a cache with blocks in random order; whatever no sequence owns is NaN, and unused table entries are out of the question. */
function scene(shape: PagedAttentionShape, sequences: readonly Sequence[], seed = 1): Scene {
  const { numHeads, numKvHeads, headDim, kvType, queryTokens, window } = shape;
  const numTokens = sequences.reduce((sum, s) => sum + s.queryLen, 0);
  const rounded = (x: Float32Array): Float32Array =>
    kvType === 'f16' ? Float32Array.from(new Float16Array(x)) : x;
  const q = randomF32(numTokens * numHeads * headDim, seed, 2);
  const kvOf = (salt: number) =>
    sequences.map(({ contextLen }, s) =>
      rounded(randomF32(contextLen * numKvHeads * headDim, seed + salt + 7 * s)),
    );
  const keys = kvOf(100);
  const values = kvOf(200);

  const maxBlocksPerSeq = Math.max(...sequences.map((s) => Math.ceil(s.contextLen / 16))) + 1;
  const numBlocks = sequences.length * maxBlocksPerSeq;
  const random = randomSource(seed);
  const order = range(numBlocks).sort(() => random() - 0.5);
  const blockTables = new Int32Array(sequences.length * maxBlocksPerSeq).fill(1 << 28);
  const keyCache = new Uint8Array(numBlocks * keyBlockBytes(shape));
  const valueCache = new Uint8Array(numBlocks * valueBlockBytes(shape));
  const keyView = new DataView(keyCache.buffer);
  const valueView = new DataView(valueCache.buffer);
  const elementBytes = kvType === 'f16' ? 2 : 4;
  for (const i of range(keyCache.length / elementBytes)) setElement(shape, keyView, i, Number.NaN);
  const rowElements = valueRowElements(headDim);
  for (const i of range(valueCache.length / elementBytes)) {
    setElement(shape, valueView, i, i % rowElements < headDim ? Number.NaN : 0);
  }
  sequences.forEach(({ contextLen, queryLen }, s) => {
    // With a window, blocks that nobody sees any more have been given back.
    const oldest = window === null ? 0 : Math.max(0, contextLen - queryLen - window + 1);
    for (let t = oldest & ~15; t < contextLen; t++) {
      const at = s * maxBlocksPerSeq + (t >> 4);
      if (t % KV_BLOCK_SIZE === 0) blockTables[at] = order.pop()!;
      const block = blockTables[at]!;
      for (const h of range(numKvHeads)) {
        for (const d of range(headDim)) {
          const from = (t * numKvHeads + h) * headDim + d;
          const keyAt = ((block * numKvHeads + h) * headDim + d) * 16 + (t & 15);
          setElement(shape, keyView, keyAt, keys[s]![from]!);
          const valueAt = ((block * numKvHeads + h) * 16 + (t & 15)) * rowElements + d;
          setElement(shape, valueView, valueAt, values[s]![from]!);
        }
      }
    }
  });

  const queryStarts = new Int32Array(sequences.length + 1);
  const tiles: number[] = [];
  sequences.forEach(({ queryLen }, s) => {
    queryStarts[s + 1] = queryStarts[s]! + queryLen;
    for (let t = 0; t < queryLen; t += queryTokens) {
      tiles.push(s, queryStarts[s]! + t, Math.min(queryTokens, queryLen - t), 0);
    }
  });
  const fields = {
    q,
    qStride: 4 * numHeads * headDim,
    out: new Float32Array(q.length).fill(-7),
    outStride: 4 * numHeads * headDim,
    keyCache,
    valueCache,
    blockTables,
    maxBlocksPerSeq,
    contextLens: Int32Array.from(sequences, (s) => s.contextLen),
    queryStarts,
    tiles: Int32Array.from(tiles),
  };
  return { shape, sequences, q, keys, values, fields, numChunks: (tiles.length / 4) * numKvHeads };
}

/** The definition, in f64. */
function attentionReference({ shape, sequences, q, keys, values }: Scene): Float64Array {
  const { numHeads, numKvHeads, headDim, scale, window } = shape;
  const out = new Float64Array(q.length);
  let token = 0;
  sequences.forEach(({ contextLen, queryLen }, s) => {
    for (let i = contextLen - queryLen; i < contextLen; i++, token++) {
      for (const h of range(numHeads)) {
        const kvHead = Math.floor(h / (numHeads / numKvHeads));
        const row = (token * numHeads + h) * headDim;
        const first = window === null ? 0 : Math.max(0, i - window + 1);
        const at = (t: number): number => (t * numKvHeads + kvHead) * headDim;
        const scores: number[] = [];
        for (let t = first; t <= i; t++) {
          let sum = 0;
          for (let d = 0; d < headDim; d++) sum += q[row + d]! * keys[s]![at(t) + d]!;
          scores.push(sum * scale);
        }
        const max = Math.max(...scores);
        const weights = scores.map((x) => Math.exp(x - max));
        const total = weights.reduce((a, b) => a + b);
        weights.forEach((p, j) => {
          for (let d = 0; d < headDim; d++) {
            out[row + d]! += (p / total) * values[s]![at(first + j) + d]!;
          }
        });
      }
    }
  });
  return out;
}

function checkScene(s: Scene, nativeOnly: boolean): void {
  const expected = attentionReference(s);
  runEverywhere({
    record: (machine) => pagedAttentionKernel(machine, s.shape),
    fields: s.fields,
    chunks: range(s.numChunks).reverse(),
    nativeOnly,
    onResult: ({ out }, { name }) => {
      f32Of(out!).forEach((y, i) => {
        const wanted = expected[i]!;
        assert.ok(
          Math.abs(y - wanted) < 3e-6 * (1 + Math.abs(wanted)),
          `${name}, ${JSON.stringify(s.shape)}: out[${i}] is ${y}, expected ${wanted}`,
        );
      });
    },
  });
}

const BASE = { scale: 0.2, window: null, kvType: 'f16', queryTokens: 4 } as const;

test(`attention over the paged cache equals its definition (${nativeMachineNames()})`, () => {
  const sequences = [
    { contextLen: 1, queryLen: 1 },
    { contextLen: 15, queryLen: 15 },
    { contextLen: 65, queryLen: 5 },
    { contextLen: 150, queryLen: 1 },
  ];
  for (const kvType of ['f16', 'f32'] as const) {
    const heads = { ...BASE, kvType, numHeads: 4, numKvHeads: 2, scale: 0.09 };
    for (const headDim of [8, 24, 64])
      checkScene(scene({ ...heads, headDim }, sequences), headDim > 8);
    for (const headDim of [16, 32, 80, 96, 128, 256]) {
      checkScene(scene({ ...heads, headDim }, sequences, headDim), true);
    }
  }
});

test('every grouping of query heads, every number of tokens in a tile', () => {
  for (const group of [1, 2, 3, 4, 5, 6, 7, 8, 11, 16]) {
    for (const queryTokens of [1, 3, 16]) {
      const shape = { ...BASE, numHeads: 2 * group, numKvHeads: 2, headDim: 16, queryTokens };
      const sequences = range(6).map((i) => ({ contextLen: 70 + i, queryLen: 1 + i }));
      checkScene(scene(shape, sequences, group), group !== 3 || queryTokens !== 3);
    }
  }
});

test('a sliding window hides older tokens, whose blocks may be gone', () => {
  for (const window of [1, 5, 16, 63, 64, 65, 100]) {
    const shape = { ...BASE, numHeads: 3, numKvHeads: 1, headDim: 32, window, queryTokens: 5 };
    const sequences = [
      { contextLen: 13, queryLen: 13 },
      { contextLen: 200, queryLen: 9 },
      { contextLen: 333, queryLen: 1 },
    ];
    checkScene(scene(shape, sequences, window), window !== 5 && window !== 64);
  }
});

test('long contexts stay accurate', () => {
  const shape = { ...BASE, numHeads: 2, numKvHeads: 1, headDim: 64, kvType: 'f32' } as const;
  checkScene(scene(shape, [{ contextLen: 5000, queryLen: 2 }]), true);
});

/** Rows of the step, by what `edit` makes of the scene. */
function outputsOf(s: Scene): Float32Array[] {
  const results: Float32Array[] = [];
  runEverywhere({
    record: (machine) => pagedAttentionKernel(machine, s.shape),
    fields: s.fields,
    chunks: range(s.numChunks),
    nativeOnly: true,
    onResult: ({ out }) => results.push(f32Of(out!)),
  });
  return results;
}

test('a row has the same bits in any tile, chunk and batch', () => {
  for (const window of [null, 40]) {
    const shape = { ...BASE, window, numHeads: 6, numKvHeads: 2, headDim: 64 };
    const rowLength = 6 * 64;
    const whole = scene({ ...shape, queryTokens: 16 }, [{ contextLen: 150, queryLen: 150 }]);
    const expected = outputsOf(whole);
    for (const queryTokens of [1, 2, 5, 7]) {
      const actual = outputsOf(
        scene({ ...shape, queryTokens }, [{ contextLen: 150, queryLen: 150 }]),
      );
      assert.deepEqual(actual, expected, `tiles of ${queryTokens}`);
    }
    // The same sequence, but only its last tokens are computed, beside another sequence.
    const other = { contextLen: 37, queryLen: 3 };
    const part = scene(shape, [{ contextLen: 150, queryLen: 20 }, other]);
    const partQ = whole.q.slice(130 * rowLength);
    (part.fields.q as Float32Array).set(partQ);
    outputsOf(part).forEach((out, i) => {
      assert.deepEqual(out.subarray(0, 20 * rowLength), expected[i]!.subarray(130 * rowLength));
    });
  }
});

test('kernels stay small and fit the registers of every machine', () => {
  const machines: VectorMachine[] = [
    { lanes: 8, vectorRegisters: 16, hasInt8Dot: false, hasBroadcastOperand: false },
    { lanes: 16, vectorRegisters: 32, hasInt8Dot: true, hasBroadcastOperand: true },
  ];
  for (const machine of machines) {
    for (const headDim of [8, 80, 96, 256]) {
      for (const group of [1, 3, 7, 16]) {
        const program = pagedAttentionKernel(machine, {
          ...BASE,
          window: 512,
          headDim,
          numHeads: group,
          numKvHeads: 1,
          queryTokens: 16,
        });
        assert.ok(
          program.instructions.length < 4000,
          `${program.name}: ${program.instructions.length}`,
        );
        if (NATIVE_MACHINES.length > 0) assert.ok(lowerToX64(program).length < 40_000);
      }
    }
  }
});

test('head sizes and groups that are not supported are refused', () => {
  const machine = {
    lanes: 8,
    vectorRegisters: 16,
    hasInt8Dot: false,
    hasBroadcastOperand: false,
  } as const;
  for (const wrong of [
    { numHeads: 4, numKvHeads: 1, headDim: 264 },
    { numHeads: 4, numKvHeads: 1, headDim: 20 },
    { numHeads: 4, numKvHeads: 3, headDim: 64 },
    { numHeads: 17, numKvHeads: 1, headDim: 64 },
  ]) {
    assert.throws(() => pagedAttentionKernel(machine, { ...BASE, ...wrong }), KernelShapeError);
  }
});
