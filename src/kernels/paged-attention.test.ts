import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lowerToX64 } from '../targets/x64/lower.ts';
import { KernelShapeError } from './errors.ts';
import type { VectorMachine } from './kernel-ir.ts';
import { hasOpenGroups, hasRotatedValues, KV_TYPES } from './kv-layout.ts';
import { pagedAttentionKernel } from './paged-attention.ts';
import { attentionReference, type Scene, scene } from './testing/attention-scene.ts';
import {
  f32Of,
  NATIVE_MACHINES,
  nativeMachineNames,
  range,
  runEverywhere,
} from './testing/run-kernel.ts';

function checkScene(s: Scene, nativeOnly: boolean): void {
  const expected = attentionReference(s);
  // Rotated there and back, values are sums of a whole head.
  const tolerance = hasRotatedValues(s.shape.kvType) ? 1e-5 : 3e-6;
  runEverywhere({
    record: (machine) => pagedAttentionKernel(machine, s.shape),
    fields: s.fields,
    chunks: range(s.numChunks).reverse(),
    nativeOnly,
    onResult: ({ out }, { name }) => {
      f32Of(out!).forEach((y, i) => {
        const wanted = expected[i]!;
        assert.ok(
          Math.abs(y - wanted) < tolerance * (1 + Math.abs(wanted)),
          `${name}, ${JSON.stringify(s.shape)}: out[${i}] is ${y}, expected ${wanted}`,
        );
      });
    },
  });
}

const BASE = {
  scale: 0.2,
  window: null,
  kvType: 'f16',
  queryTokens: 4,
  output: 'f32',
} as const;

test(`attention over the paged cache equals its definition (${nativeMachineNames()})`, () => {
  const sequences = [
    { contextLen: 1, queryLen: 1 },
    { contextLen: 15, queryLen: 15 },
    { contextLen: 65, queryLen: 5 },
    { contextLen: 150, queryLen: 1 },
  ];
  for (const kvType of KV_TYPES) {
    const heads = { ...BASE, kvType, numHeads: 4, numKvHeads: 2, scale: 0.09 };
    for (const headDim of [8, 24, 64])
      checkScene(scene({ ...heads, headDim }, sequences), headDim > 8);
    for (const headDim of hasRotatedValues(kvType) ? [16, 80, 256] : [16, 32, 80, 96, 128, 256]) {
      checkScene(scene({ ...heads, headDim }, sequences, headDim), true);
    }
  }
});

test('every grouping of query heads, every number of tokens in a tile', () => {
  for (const group of [1, 2, 3, 4, 5, 6, 7, 8, 11, 16]) {
    for (const queryTokens of [1, 3, 16]) {
      const kvType = KV_TYPES[(group + queryTokens) % KV_TYPES.length]!;
      const heads = { numHeads: 2 * group, numKvHeads: 2, headDim: 16 };
      const sequences = range(6).map((i) => ({ contextLen: 70 + i, queryLen: 1 + i }));
      const shape = { ...BASE, ...heads, queryTokens };
      checkScene(scene(shape, sequences, group), group !== 3 || queryTokens !== 3);
      checkScene(scene({ ...shape, kvType }, sequences, group), true);
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
    checkScene(scene({ ...shape, kvType: 'q4' }, sequences, window), true);
  }
});

test('long contexts stay accurate', () => {
  for (const kvType of ['f32', 'q8', 'q4'] as const) {
    const shape = { ...BASE, numHeads: 2, numKvHeads: 1, headDim: 64, kvType };
    checkScene(scene(shape, [{ contextLen: 5000, queryLen: 2 }]), true);
  }
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
  const cases = [
    { window: null, kvType: 'f16', headDim: 64 },
    { window: 40, kvType: 'f16', headDim: 64 },
    { window: null, kvType: 'q8', headDim: 64 },
    { window: null, kvType: 'q4', headDim: 64 },
    { window: 40, kvType: 'q4', headDim: 64 },
    { window: null, kvType: 'q4', headDim: 80 },
  ] as const;
  for (const own of cases) {
    const shape = { ...BASE, ...own, numHeads: 6, numKvHeads: 2 };
    const rowLength = 6 * own.headDim;
    const whole = scene({ ...shape, queryTokens: 16 }, [{ contextLen: 150, queryLen: 150 }]);
    const expected = outputsOf(whole);
    for (const queryTokens of [1, 2, 5, 7, 8]) {
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
      for (const [i, group] of [1, 3, 7, 16, 3, 5].entries()) {
        const kvType = i < 4 ? 'f16' : i < 5 ? 'q8' : 'q4';
        const program = pagedAttentionKernel(machine, {
          ...BASE,
          kvType,
          window: 512,
          headDim,
          numHeads: group,
          numKvHeads: 1,
          queryTokens: 16,
        });
        // With open groups it is there three times: for them, for codes, and for codes taken apart.
        const most = hasOpenGroups(kvType) ? 9000 : 4000;
        assert.ok(
          program.instructions.length < most,
          `${program.name}: ${program.instructions.length}`,
        );
        if (NATIVE_MACHINES.length > 0) assert.ok(lowerToX64(program).length < 8 * most);
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
