import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeKvChannel, encodeKvHead, rotateHead } from '../tensor/kv-row.ts';
import {
  KV_GROUP_TOKENS,
  KV_SCALE_BYTES,
  type KvShape,
  keyBlockBytes,
  keyPlace,
  valueBlockBytes,
  valuePlace,
} from './kv-layout.ts';
import { openGroupBytes, openKeysBytes } from './open-group.ts';
import { type RopeKvStoreShape, ropeKvStoreKernel } from './rope-kv-store.ts';
import { sealKvKernel } from './seal-kv.ts';
import { kvElement } from './testing/attention-scene.ts';
import { keyAddress, valueAddress } from './testing/kv-address.ts';
import {
  type Fields,
  nativeMachineNames,
  randomF32,
  range,
  runEverywhere,
} from './testing/run-kernel.ts';

const NUM_OWN_GROUPS = 2;
/** Group 1 is a sequence's, group 3 the second of the step's. */
const SEALS = Int32Array.of(1, 4, 3, 0);
const NUM_BLOCKS = 5;

/** Groups of random keys and values: bytes, and what they hold by (group, token, head, dimension). */
function openGroups(shape: Pick<KvShape, 'numKvHeads' | 'headDim'>) {
  const open: KvShape = { ...shape, kvType: 'open' };
  const { numKvHeads, headDim } = shape;
  const bytes = openGroupBytes(shape);
  const memory = new Uint8Array(4 * bytes);
  const view = new DataView(memory.buffer);
  const numValues = 4 * KV_GROUP_TOKENS * numKvHeads * headDim;
  const keys = randomF32(numValues, 1, 3).map(Math.f16round);
  const values = randomF32(numValues, 2, 3).map(Math.f16round);
  // A channel of one value, one of next to nothing, and values at the end of the range.
  for (let i = 0; i < keys.length; i += headDim) {
    keys[i] = -2.5;
    keys[i + 1] = Math.f16round(keys[i + 1]! * 1e-7);
    keys[i + 2] = keys[i + 2]! > 0 ? 65504 : -65504;
  }
  const at = (group: number, token: number, head: number): number =>
    ((group * KV_GROUP_TOKENS + token) * numKvHeads + head) * headDim;
  for (const group of range(4)) {
    for (const token of range(KV_GROUP_TOKENS)) {
      for (const h of range(numKvHeads)) {
        const keyStart = group * bytes + keyAddress(open, 0, h).elements;
        const valueStart =
          group * bytes + openKeysBytes(shape) + valueAddress(open, token, h).elements;
        for (const d of range(headDim)) {
          const i = at(group, token, h) + d;
          view.setFloat16(keyStart + keyPlace('open', d, token).offsetBytes, keys[i]!, true);
          view.setFloat16(valueStart + valuePlace('open', d).offsetBytes, values[i]!, true);
        }
      }
    }
  }
  const own = memory.slice(0, NUM_OWN_GROUPS * bytes);
  const step = memory.slice(NUM_OWN_GROUPS * bytes);
  return { own, step, keys, values, at };
}

test(`full groups become the codes of their definition (${nativeMachineNames()})`, () => {
  for (const headDim of [8, 24, 64, 80]) {
    const shape: KvShape = { numKvHeads: 2, headDim, kvType: 'q4' };
    const { own, step, keys, values, at } = openGroups(shape);
    const fields: Fields = {
      seals: SEALS,
      keyCache: new Uint8Array(NUM_BLOCKS * keyBlockBytes(shape)),
      valueCache: new Uint8Array(NUM_BLOCKS * valueBlockBytes(shape)),
      ownGroups: own,
      stepGroups: step,
      numOwnGroups: NUM_OWN_GROUPS,
    };
    runEverywhere({
      record: (machine) => sealKvKernel(machine, shape),
      fields,
      chunks: [3, 0, 2, 1],
      onResult: ({ keyCache, valueCache }, { name }) => {
        const keyView = new DataView(keyCache!.buffer, keyCache!.byteOffset);
        const valueView = new DataView(valueCache!.buffer, valueCache!.byteOffset);
        for (const [i, h] of [0, 1].flatMap((i) => [0, 1].map((h) => [i, h] as const))) {
          const [group, block] = SEALS.subarray(2 * i) as unknown as [number, number];
          const what = `${name}, head size ${headDim}, group ${group}, head ${h}`;
          const { scale: scaleAt, elements } = keyAddress(shape, 32 * block, h);
          for (const d of range(headDim)) {
            const channel = range(KV_GROUP_TOKENS).map((t) => keys[at(group, t, h) + d]!);
            const codes = new Uint8Array(KV_GROUP_TOKENS);
            const expected = encodeKvChannel(Float32Array.from(channel), codes);
            const stored = {
              scale: keyView.getFloat16(scaleAt + KV_SCALE_BYTES * d, true),
              minimum: keyView.getFloat16(scaleAt + KV_SCALE_BYTES * (headDim + d), true),
            };
            assert.deepEqual(stored, expected, `${what}, channel ${d}`);
            const seen = range(KV_GROUP_TOKENS).map((t) =>
              kvElement('c4', keyView, elements, keyPlace('q4', d, t)),
            );
            assert.deepEqual(seen, [...codes], `${what}, channel ${d}`);
          }
          for (const t of range(KV_GROUP_TOKENS)) {
            const place = valueAddress(shape, 32 * block + t, h);
            // Groups hold rotated values, and the definition begins with values as they are.
            const head = values.slice(at(group, t, h), at(group, t, h) + headDim);
            const codes = new Int8Array(headDim);
            const scale = encodeRotated(head, codes);
            assert.equal(valueView.getFloat16(place.scale, true), scale, `${what}, token ${t}`);
            const seen = range(headDim).map((d) =>
              kvElement('q4', valueView, place.elements, valuePlace('q4', d)),
            );
            assert.deepEqual(seen, [...codes], `${what}, token ${t}`);
          }
        }
        const untouched = keyCache!.subarray(keyBlockBytes(shape), 4 * keyBlockBytes(shape));
        assert.ok(untouched.every((byte) => byte === 0));
      },
    });
  }
});

/** Codes of a head that is rotated already: rotated back it is exact in f32, but for a rounding far below that of f16. */
function encodeRotated(head: Float32Array, codes: Int8Array): number {
  const plain = head.slice();
  rotateHead(plain);
  const size = head.length & -head.length;
  return encodeKvHead(
    'q4',
    plain.map((x) => x / size),
    codes,
  );
}

test('tokens go to open groups: keys in f16, values rotated', () => {
  const numTokens = 3;
  for (const headDim of [16, 80]) {
    const heads = { numHeads: 2, numKvHeads: 2, headDim };
    const shape: RopeKvStoreShape = { ...heads, kvType: 'q4', rope: null };
    const width = 2 * headDim;
    const [q, k, v] = [1, 2, 3].map((seed) => randomF32(numTokens * width, seed));
    const bytes = openGroupBytes(shape);
    const slots = [40, 2 * 32 + 31, 3 * 32];
    const stride = 4 * width;
    const fields: Fields = {
      ...{ q: q!, qStride: stride, k: k!, kStride: stride, v: v!, vStride: stride },
      ...{ out: new Float32Array(numTokens * width), outStride: stride },
      slotMapping: Int32Array.from(slots),
      ownGroups: new Uint8Array(NUM_OWN_GROUPS * bytes),
      stepGroups: new Uint8Array(2 * bytes),
      ...{ numOwnGroups: NUM_OWN_GROUPS, numRows: numTokens, rowsPerChunk: 2 },
    };
    runEverywhere({
      record: (machine) => ropeKvStoreKernel(machine, shape),
      fields,
      chunks: [0, 1],
      onResult: ({ ownGroups, stepGroups }, { name }) => {
        const all = new Uint8Array([...ownGroups!, ...stepGroups!]);
        const view = new DataView(all.buffer);
        const open: KvShape = { ...heads, kvType: 'open' };
        slots.forEach((slot, t) => {
          for (const h of range(2)) {
            const at = t * width + h * headDim;
            const group = (slot >> 5) * bytes;
            const keyStart = group + keyAddress(open, 0, h).elements;
            const valueStart =
              group + openKeysBytes(shape) + valueAddress(open, slot & 31, h).elements;
            const rotated = v!.slice(at, at + headDim);
            rotateHead(rotated);
            for (const d of range(headDim)) {
              const what = `${name}: token ${t}, head ${h}, dimension ${d}`;
              const keyAt = keyStart + keyPlace('open', d, slot & 31).offsetBytes;
              assert.equal(view.getFloat16(keyAt, true), Math.f16round(k![at + d]!), what);
              const valueAt = valueStart + valuePlace('open', d).offsetBytes;
              assert.equal(view.getFloat16(valueAt, true), Math.f16round(rotated[d]!), what);
            }
          }
        });
      },
    });
  }
});
